//! Texts that are alike: by the share of trigrams that two of them have in common, as PostgreSQL's `pg_trgm` counts it, so
//! that a threshold can be tried out there.

use std::collections::{HashMap, HashSet};

/// Texts, found by what they are like.
#[derive(Debug, Default)]
pub(super) struct Similar {
    texts: Vec<String>,
    /// How many trigrams each has.
    sizes: Vec<u32>,
    /// For each trigram the texts that have it, in order.
    holders: HashMap<[char; 3], Vec<u32>>,
}

/// Returns the trigrams of a text: of each word, in small letters, with two spaces before and one behind.
fn trigrams(text: &str) -> HashSet<[char; 3]> {
    let small = text.to_lowercase();
    let words = small.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    let padded = words.map(|word| [' ', ' '].into_iter().chain(word.chars()).chain([' ']).collect::<Vec<char>>());
    padded.flat_map(|word| word.windows(3).map(|three| [three[0], three[1], three[2]]).collect::<Vec<_>>()).collect()
}

impl Similar {
    pub(super) fn new<'t>(texts: impl Iterator<Item = &'t String>) -> Self {
        let mut similar = Self { texts: texts.cloned().collect(), ..Self::default() };
        // The same answer every time, whatever order they came in.
        similar.texts.sort();
        for (at, text) in similar.texts.iter().enumerate() {
            let own = trigrams(text);
            similar.sizes.push(own.len() as u32);
            for trigram in own {
                similar.holders.entry(trigram).or_default().push(at as u32);
            }
        }
        similar
    }

    /// Returns the texts that are at least so similar, with their similarity from 0 to 1, the most similar first.
    pub(super) fn find(&self, text: &str, least: f64) -> Vec<(f64, &str)> {
        let own = trigrams(text);
        let mut common: HashMap<u32, u32> = HashMap::new();
        for holders in own.iter().filter_map(|trigram| self.holders.get(trigram)) {
            for at in holders {
                *common.entry(*at).or_default() += 1;
            }
        }
        let size = own.len() as u32;
        let score = |(at, common): (u32, u32)| {
            let all = size + self.sizes[at as usize] - common;
            (f64::from(common) / f64::from(all), self.texts[at as usize].as_str())
        };
        let mut found: Vec<(f64, &str)> = common.into_iter().map(score).filter(|(score, _)| *score >= least).collect();
        found.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(right.1)));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_similar_as_postgres_says() {
        let texts = ["Acme Ltd", "Acme Limited", "Zebra", "", "K\u{f6}ln AG"].map(str::to_owned);
        let similar = Similar::new(texts.iter());
        // SELECT similarity('ACME ltd.', 'Acme Ltd') and 'Acme Limited', with pg_trgm.
        let found = similar.find("ACME ltd.", 0.3);
        assert_eq!(found.iter().map(|(_, text)| *text).collect::<Vec<_>>(), ["Acme Ltd", "Acme Limited"]);
        assert!((found[0].0 - 1.0).abs() < 1e-9 && (found[1].0 - 0.375).abs() < 1e-9, "{found:?}");
        assert!(similar.find("", 0.1).is_empty());
        assert_eq!(similar.find("k\u{f6}ln ag", 0.9).len(), 1);
    }
}
