//! Record ids: 15 characters, and 3 more that make them case-insensitive.

/// Digits of the serial part, in the platform's order.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters of the suffix.
const SUFFIX: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ012345";

/// The instance part of every id that the sandbox hands out.
const POD: &str = "Sb0";

/// Returns the 18-character id with this prefix and serial number; ids ascend with their serial.
pub(crate) fn make(prefix: &str, serial: u64) -> String {
    let mut digits = [b'0'; 9];
    let mut rest = serial;
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[(rest % 62) as usize];
        rest /= 62;
    }
    let short = format!("{prefix}{POD}{}", String::from_utf8_lossy(&digits));
    let suffix = suffix(&short);
    short + &suffix
}

/// Returns the serial number of an id that [`make`] made.
pub(crate) fn serial(id: &str) -> Option<u64> {
    let digits = id.get(6..15)?.bytes();
    digits
        .map(|digit| DIGITS.iter().position(|known| *known == digit))
        .try_fold(0, |sum, digit| Some(sum * 62 + digit? as u64))
}

/// Returns the 18-character form of an id of 15 or 18 characters; `None` for anything else.
pub(crate) fn normal(id: &str) -> Option<String> {
    if !id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return None;
    }
    match id.len() {
        15 => Some(format!("{id}{}", suffix(id))),
        18 if suffix(&id[..15]).eq_ignore_ascii_case(&id[15..]) => Some(format!("{}{}", &id[..15], suffix(&id[..15]))),
        _ => None,
    }
}

fn suffix(short: &str) -> String {
    short
        .as_bytes()
        .chunks(5)
        .map(|group| {
            let bits = group
                .iter()
                .enumerate()
                .filter(|(_, byte)| byte.is_ascii_uppercase())
                .fold(0_usize, |bits, (place, _)| bits | 1 << place);
            SUFFIX[bits] as char
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_match_recorded_ids() {
        let cases = [
            ("001D000000IqhSL", "IAZ"),
            ("0015500001QdZPK", "AA3"),
            ("0035500001H9kZu", "AAJ"),
            ("003RM0000068xV6", "YAI"),
            ("750R0000000zxr8", "IAA"),
            ("012000000000000", "AAA"),
        ];
        for (short, expected) in cases {
            assert_eq!(normal(short), Some(format!("{short}{expected}")));
            assert_eq!(normal(&format!("{short}{expected}")), Some(format!("{short}{expected}")));
        }
        assert_eq!(normal("001D000000IqhSLAAA"), None);
        assert_eq!(normal("too short"), None);
    }

    #[test]
    fn ids_ascend() {
        let ids: Vec<String> = (60..200).map(|serial| make("001", serial)).collect();
        assert!(ids.windows(2).all(|pair| pair[0][..15] < pair[1][..15]));
    }
}
