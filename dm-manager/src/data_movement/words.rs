//! A command of a profile cut into words, as a shell would do it, and refused where a shell would do
//! more than that. It runs nothing and knows no program.

/// The commands of a list that is joined by `&&`, each with its words.
///
/// # Errors
///
/// When the text does what only a shell can, with the part that does it.
pub(crate) fn commands(text: &str) -> Result<Vec<Vec<String>>, String> {
    let mut commands = vec![Vec::new()];
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("&&") {
            commands.push(Vec::new());
            rest = after.trim_start();
            continue;
        }
        let (word, after) = word(rest)?;
        if let Some(command) = commands.last_mut() {
            command.push(word);
        }
        rest = after.trim_start();
    }
    Ok(commands)
}

/// The words of options, which are part of one command.
///
/// # Errors
///
/// As [`commands`], and for `&&`.
pub(crate) fn options(text: &str) -> Result<Vec<String>, String> {
    let mut commands = commands(text)?;
    match commands.len() {
        1 => Ok(commands.remove(0)),
        _ => Err("`&&`".to_owned()),
    }
}

/// The first word of a text that starts with one, and what follows it.
fn word(text: &str) -> Result<(String, &str), String> {
    let mut word = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            _ if character.is_whitespace() => return Ok((word, &text[at..])),
            '&' if text[at..].starts_with("&&") => return Ok((word, &text[at..])),
            '\'' => {
                let inside = &text[at + 1..];
                let end = inside.find('\'').ok_or("a quote that does not end")?;
                word.push_str(&inside[..end]);
                characters = skipped(text, at + 1 + end + 1);
            }
            '"' => {
                let end = double_quoted(text, at + 1, &mut word)?;
                characters = skipped(text, end);
            }
            '\\' => match characters.next() {
                Some((_, escaped)) => word.push(escaped),
                None => return Err("a backslash at the end".to_owned()),
            },
            ';' | '|' | '&' | '<' | '>' | '`' | '(' | ')' | '{' | '}' | '*' | '?' | '[' | '#'
            | '~' | '!'
                if !is_plain(character, &word) =>
            {
                return Err(format!("`{character}`"));
            }
            '$' if text[at..].starts_with("$(") => return Err("`$(`".to_owned()),
            _ => word.push(character),
        }
    }
    Ok((word, ""))
}

/// Whether a character means itself because it is inside a word.
fn is_plain(character: char, word: &str) -> bool {
    matches!(character, '#' | '~' | '!') && !word.is_empty()
}

/// Appends what is inside double quotes, and returns where the text goes on behind them.
fn double_quoted(text: &str, start: usize, word: &mut String) -> Result<usize, String> {
    let mut characters = text[start..].char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok(start + at + 1),
            '`' => return Err("`` ` ``".to_owned()),
            '$' if text[start + at..].starts_with("$(") => return Err("`$(`".to_owned()),
            '\\' => match characters.next() {
                Some((_, escaped @ ('"' | '\\' | '$' | '`'))) => word.push(escaped),
                Some((_, other)) => word.extend(['\\', other]),
                None => break,
            },
            _ => word.push(character),
        }
    }
    Err("a quote that does not end".to_owned())
}

/// The characters of a text from a byte on, with their places in the whole.
fn skipped(text: &str, to: usize) -> std::str::CharIndices<'_> {
    let mut characters = text.char_indices();
    while characters.offset() < to && characters.next().is_some() {}
    characters
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_cut_as_a_shell_cuts_them() {
        let text =
            "ulimit -n 2048&& mpirun  -x 'A=b c'\t--to \"d\\\"e $SRC\" f\\ g '' h'i'\"j\" $DEST#";
        let expected: [&[&str]; 2] = [
            &["ulimit", "-n", "2048"],
            &["mpirun", "-x", "A=b c", "--to", "d\"e $SRC", "f g", "", "hij", "$DEST#"],
        ];
        assert_eq!(commands(text).unwrap(), expected);
        assert_eq!(commands(" ").unwrap(), [Vec::<String>::new()]);
        assert_eq!(options("--a 'b c'").unwrap(), ["--a", "b c"]);
    }

    #[test]
    fn what_needs_a_shell_is_refused_by_name() {
        for (text, named) in [
            ("sleep 8; echo", "`;`"),
            ("a | b", "`|`"),
            ("a || b", "`|`"),
            ("a & b", "`&`"),
            ("a > b", "`>`"),
            ("a $(id)", "`$(`"),
            ("a \"$(id)\"", "`$(`"),
            ("a `id`", "`` ` ``"),
            ("a *", "`*`"),
            ("(a)", "`(`"),
            ("a # b", "`#`"),
            ("a 'b", "a quote that does not end"),
            ("a \"b", "a quote that does not end"),
            ("a \\", "a backslash at the end"),
        ] {
            let refused = commands(text).unwrap_err();
            assert_eq!(refused.replace("```", "`` ` ``"), named, "{text}");
        }
        options("-a && -b").unwrap_err();
    }

    proptest! {
        #[test]
        fn what_is_quoted_comes_back(words in prop::collection::vec("[^'\u{0}]{0,12}", 1..6)) {
            let text: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
            prop_assert_eq!(commands(&text.join(" ")).unwrap(), [words]);
        }

        #[test]
        fn nothing_makes_it_panic(text in "[ab$&;|'\"`\\\\ (){}é*\t\n-]{0,24}") {
            drop(commands(&text));
        }
    }
}
