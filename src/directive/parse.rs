//! First step of a script: its `#DW` lines become commands with arguments. Which commands and
//! arguments exist is not decided here but by [`rules`](super::rules).

use std::fmt;

use super::Fault;

/// The first field of a directive's line.
pub const MARK: &str = "#DW";

/// The argument name that the cluster's parser keeps for itself; as an argument it counts as
/// repeated there, so it is refused here.
const RESERVED: &str = "command";

/// One `#DW` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The line in the script, from 1.
    pub line: usize,
    /// The word after `#DW`.
    pub command: String,
    /// The rest, in order; no key occurs twice.
    pub arguments: Vec<Argument>,
}

/// One `key`, `key=` or `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// The text before the first `=`.
    pub key: String,
    /// The text after it, possibly empty; `None` when there is no `=` at all.
    pub value: Option<String>,
}

impl Directive {
    /// The value of an argument; `None` when it is absent or has no `=`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&str> {
        self.arguments.iter().find(|a| a.key == key).and_then(|a| a.value.as_deref())
    }
}

/// Composes the line that parses to this directive.
impl fmt::Display for Directive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MARK} {}", self.command)?;
        for argument in &self.arguments {
            write!(f, " {}", argument.key)?;
            if let Some(value) = &argument.value {
                write!(f, "={value}")?;
            }
        }
        Ok(())
    }
}

/// Parses all directives of a script. Lines that do not start with the field `#DW` are not looked
/// at, whatever bytes they hold.
#[must_use]
pub fn parse(script: &[u8]) -> (Vec<Directive>, Vec<Fault>) {
    let mut directives = Vec::new();
    let mut faults = Vec::new();
    for (number, bytes) in (1..).zip(script.split(|byte| *byte == b'\n')) {
        match std::str::from_utf8(bytes) {
            Ok(text) => match parse_line(number, text) {
                Some(Ok(directive)) => directives.push(directive),
                Some(Err(problems)) => faults.extend(problems),
                None => {}
            },
            Err(_) if is_directive(&String::from_utf8_lossy(bytes)) => {
                faults.push(Fault::new(number, "the directive is not valid UTF-8"));
            }
            Err(_) => {}
        }
    }
    (directives, faults)
}

/// Parses one line; `None` when it is no directive.
#[must_use]
pub fn parse_line(line: usize, text: &str) -> Option<Result<Directive, Vec<Fault>>> {
    if !is_directive(text) {
        return None;
    }
    let mut fields = text.split_whitespace().skip(1);
    let Some(command) = fields.next() else {
        return Some(Err(vec![Fault::new(line, "'#DW' without a command after it")]));
    };
    let mut arguments: Vec<Argument> = Vec::new();
    let mut faults = Vec::new();
    for field in fields {
        let argument = match field.split_once('=') {
            Some((key, value)) => Argument { key: key.to_owned(), value: Some(value.to_owned()) },
            None => Argument { key: field.to_owned(), value: None },
        };
        if argument.key == RESERVED {
            faults.push(Fault::new(line, format!("argument '{RESERVED}' is reserved")));
        } else if arguments.iter().any(|earlier| earlier.key == argument.key) {
            faults.push(Fault::new(line, format!("argument '{}' is given twice", argument.key)));
        } else {
            arguments.push(argument);
        }
    }
    if faults.is_empty() {
        Some(Ok(Directive { line, command: command.to_owned(), arguments }))
    } else {
        Some(Err(faults))
    }
}

fn is_directive(text: &str) -> bool {
    text.split_whitespace().next() == Some(MARK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Directive {
        let (mut directives, faults) = parse(text.as_bytes());
        assert_eq!(faults, []);
        assert_eq!(directives.len(), 1, "{text}");
        directives.remove(0)
    }

    #[test]
    fn lines_keep_their_numbers_and_only_the_exact_mark_counts() {
        let script = b"#!/bin/sh\n#DW jobdw type=xfs\n# DW no\n#DWx no\n#dw no\n  #DW\tcopy_in a\r\necho #DW no\n";
        let (directives, faults) = parse(script);
        assert_eq!(faults, []);
        let lines: Vec<_> = directives.iter().map(|d| (d.line, d.command.as_str())).collect();
        assert_eq!(lines, [(2, "jobdw"), (6, "copy_in")]);
        assert_eq!(directives[1].arguments, [Argument { key: "a".into(), value: None }]);
    }

    #[test]
    fn a_value_starts_at_the_first_equals_sign_and_may_be_empty() {
        let directive = one("#DW copy_in source=a=b=c destination= flag");
        assert_eq!(directive.value("source"), Some("a=b=c"));
        assert_eq!(directive.value("destination"), Some(""));
        assert_eq!(directive.value("flag"), None);
        assert_eq!(directive.arguments[2].value, None);
    }

    #[test]
    fn every_fault_of_a_script_is_reported_with_its_line() {
        let script = b"#DW\n#DW jobdw name=a name=b command=x\n#DW copy_in source=\xff\n\xff\xfe\n";
        let (directives, faults) = parse(script);
        assert!(directives.is_empty());
        let lines: Vec<_> = faults.iter().map(|f| f.line).collect();
        assert_eq!(lines, [1, 2, 2, 3], "{faults:?}");
        assert!(faults[1].problem.contains("'name' is given twice"));
        assert!(faults[2].problem.contains("reserved"));
    }

    proptest! {
        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn parse_never_panics_on_directives(rest in "\\PC{0,60}") {
            let _ = parse(format!("#DW {rest}").as_bytes());
        }

        #[test]
        fn parsing_what_was_composed_gives_the_same(
            command in "[^\\s]{1,12}",
            keys in proptest::collection::btree_map("[^\\s=]{1,8}", proptest::option::of("[^\\s]{0,12}"), 0..6),
        ) {
            prop_assume!(!keys.contains_key(RESERVED));
            let arguments = keys.into_iter().map(|(key, value)| Argument { key, value }).collect();
            let directive = Directive { line: 1, command, arguments };
            let parsed = parse_line(1, &directive.to_string());
            prop_assert_eq!(parsed, Some(Ok(directive)));
        }
    }
}
