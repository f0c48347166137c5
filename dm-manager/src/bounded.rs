//! Texts cut to what an object may hold. It knows no object.

/// A text cut to a number of bytes, which says how long it was.
pub(crate) fn bounded(text: &str, longest: usize) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let note = format!("\n… cut from {} bytes", text.len());
    let mut end = longest.saturating_sub(note.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned() + &note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_between_characters_and_says_so() {
        assert_eq!(bounded("short", 100), "short");
        for extra in 0..9 {
            let long = "x".repeat(extra) + &"µ".repeat(1000);
            let cut = bounded(&long, 1000);
            assert!(cut.len() <= 1000, "{}", cut.len());
            assert!(cut.ends_with(&format!(" cut from {} bytes", long.len())), "{}", &cut[900..]);
        }
    }
}
