//! Text from strangers, made safe for a terminal.
//!
//! A terminal obeys control characters: they move the cursor, change the title, or erase what stood before. Direction
//! marks reorder what a person reads. Text from outside passes here before it is printed or logged.

/// Whether `c` changes how a terminal or a viewer shows what stands around it: C0 controls, DEL and C1 controls (as
/// characters, however they were encoded), the direction marks of Unicode (UAX #9 §2), and its line and paragraph
/// separators.
#[must_use]
pub const fn is_steering(c: char) -> bool {
    matches!(
        c,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
    )
}

/// `text` on one line, U+FFFD in place of each character that steers.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.chars().map(harmless).collect()
}

/// Bytes as text that keeps its own lines and tabs. Each line after the first begins with `indent`, so that none looks
/// like a line of the program that prints it.
#[must_use]
pub fn indented(bytes: &[u8], indent: &str) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => {
                shown.push('\n');
                shown.push_str(indent);
            }
            '\t' => shown.push('\t'),
            c => shown.push(harmless(c)),
        }
    }
    shown
}

const fn harmless(c: char) -> char {
    if is_steering(c) { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_replaced() {
        for (text, shown) in [
            ("plain, even ü 漢 👩‍🚀", "plain, even ü 漢 👩‍🚀"),
            ("\0\u{7}\u{1b}[31m\r\n\t\u{7f}", "\u{fffd}\u{fffd}\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}\u{fffd}"),
            ("\u{80}\u{85}\u{9b}2J\u{9f}\u{a0}", "\u{fffd}\u{fffd}\u{fffd}2J\u{fffd}\u{a0}"),
            ("\u{61c}\u{200e}\u{200f}", "\u{fffd}\u{fffd}\u{fffd}"),
            ("\u{202a}\u{202e}txt.exe\u{2066}\u{2069}", "\u{fffd}\u{fffd}txt.exe\u{fffd}\u{fffd}"),
            ("\u{2028}\u{2029}", "\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(one_line(text), shown, "{text:?}");
        }
    }

    #[test]
    fn every_control_character_steers() {
        for c in '\0'..=char::MAX {
            assert!(!c.is_control() || is_steering(c), "{c:?}");
        }
    }

    #[test]
    fn lines_of_a_payload_stay_its_own() {
        assert_eq!(indented(b"{\"a\":\n\t1}", "  "), "{\"a\":\n  \t1}");
        assert_eq!(indented(b"a\r\nb\x1b\xff\xc2\x9b", "> "), "a\u{fffd}\n> b\u{fffd}\u{fffd}\u{fffd}");
    }
}
