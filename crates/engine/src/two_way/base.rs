//! How a base is stored: a number for the list of fields, then for each of them what both sides agreed on. A field that
//! looks alike on both sides, as most do, takes eight bytes, one that is null or was never compared none.

use std::collections::HashMap;

use crate::merge::Base;

const NEVER: u8 = 0;
const NULL: u8 = 1;
const ALIKE: u8 = 2;
const DIFFERENT: u8 = 3;

/// The lists of fields of a mapping, today's and those before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layouts {
    pub(crate) current: u32,
    pub(crate) fields: Vec<String>,
    pub(crate) known: HashMap<u32, Vec<String>>,
}

impl Layouts {
    /// Writes a base.
    pub(crate) fn encode(&self, base: &Base) -> Vec<u8> {
        let mut bytes = self.current.to_le_bytes().to_vec();
        let mut tags = vec![0_u8; base.len().div_ceil(4)];
        let mut prints = Vec::with_capacity(base.len() * 8);
        for (at, agreed) in base.iter().enumerate() {
            let tag = match agreed {
                None => NEVER,
                Some([0, 0]) => NULL,
                Some([left, right]) if left == right => {
                    prints.extend_from_slice(&left.to_le_bytes());
                    ALIKE
                }
                Some([left, right]) => {
                    prints.extend_from_slice(&left.to_le_bytes());
                    prints.extend_from_slice(&right.to_le_bytes());
                    DIFFERENT
                }
            };
            tags[at / 4] |= tag << (at % 4 * 2);
        }
        bytes.extend(tags);
        bytes.extend(prints);
        bytes
    }

    /// Reads a base, whichever list of fields it was written with; `None` for bytes that are none.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Option<Base> {
        let (number, rest) = bytes.split_first_chunk()?;
        let fields = self.known.get(&u32::from_le_bytes(*number))?;
        let (tags, mut prints) = rest.split_at_checked(fields.len().div_ceil(4))?;
        let mut next = || {
            let (print, rest) = prints.split_first_chunk()?;
            prints = rest;
            Some(u64::from_le_bytes(*print))
        };
        let mut read = Vec::with_capacity(fields.len());
        for at in 0..fields.len() {
            read.push(match tags[at / 4] >> (at % 4 * 2) & 3 {
                NEVER => None,
                NULL => Some([0, 0]),
                ALIKE => {
                    let print = next()?;
                    Some([print, print])
                }
                _ => Some([next()?, next()?]),
            });
        }
        if *fields == self.fields {
            return Some(read);
        }
        let of = |name: &String| fields.iter().position(|known| known == name).and_then(|at| read[at]);
        Some(self.fields.iter().map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_comes_back_and_outlives_a_change_of_the_fields() {
        let names = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let old = Layouts { current: 1, fields: names("a b c d e"), known: HashMap::from([(1, names("a b c d e"))]) };
        let base: Base = vec![None, Some([0, 0]), Some([7, 7]), Some([7, 8]), Some([0, 9])];
        let bytes = old.encode(&base);
        assert_eq!((old.decode(&bytes), bytes.len()), (Some(base), 4 + 2 + 8 + 16 + 16));
        let new = Layouts { current: 2, fields: names("d x b"), ..old.clone() };
        assert_eq!(new.decode(&bytes), Some(vec![Some([7, 8]), None, Some([0, 0])]));
        assert_eq!(old.decode(&bytes[..9]), None, "what is cut off is no base");
    }
}
