//! Second step of a script: each directive against the rules of its command. The model is the
//! cluster's `DWDirectiveRule` object, the table is the NNF ruleset. What paths and names mean is
//! not looked at here.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use super::Fault;
use super::parse::{Argument, Directive};

/// What one command accepts: an element of a `DWDirectiveRule`'s `spec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The word after `#DW`.
    pub command: String,
    /// The driver that the rule belongs to; the object's name when empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver_label: String,
    /// Comma-separated states in which the driver has work to do.
    #[serde(default)]
    pub watch_states: String,
    /// The arguments.
    #[serde(default)]
    pub rule_defs: Vec<KeyRule>,
}

/// What one argument accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyRule {
    /// Regular expression that the argument's name matches.
    pub key: String,
    /// What the value is.
    #[serde(rename = "type")]
    pub value_type: ValueType,
    /// For strings, the regular expression of the value; for booleans, merely asks for the check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// For lists, each word matches one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patterns: Vec<String>,
    /// Smallest integer; 0 is no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub min: i64,
    /// Largest integer; 0 is no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max: i64,
    /// Whether the argument must be given.
    #[serde(default)]
    pub is_required: bool,
    /// Whether it needs a `=`.
    #[serde(default)]
    pub is_value_required: bool,
    /// The value must be unique among all arguments of the script with the same tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_within: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The type of an argument's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // named as in the object
pub enum ValueType {
    Integer,
    Bool,
    String,
    ListOfString,
}

const NAME: &str = "^[a-z][a-z0-9-]+$";
const STORAGE_TYPE: &str = "^(raw|xfs|gfs2|lustre)$";
const CAPACITY: &str = "^\\d+(KiB|KB|MiB|MB|GiB|GB|TiB|TB)$";

/// The rules that NNF registers, in its order.
#[must_use]
pub fn nnf() -> Vec<Rule> {
    let requires = || KeyRule::list("^requires$", &["^copy-offload$", "^user-container-auth$"]);
    let storage = |command: &str, states: &str, tag: &str, capacity: KeyRule| {
        let keys = vec![
            KeyRule::string("^type$", Some(STORAGE_TYPE)).required(),
            capacity,
            KeyRule::string("^name$", Some(NAME)).required().unique(tag),
            KeyRule::string("^profile$", Some(NAME)),
        ];
        Rule::new(command, states, keys)
    };
    let copy = |command: &str, states: &str| {
        let keys = vec![
            KeyRule::string("^source$", None).required(),
            KeyRule::string("^destination$", None).required(),
            KeyRule::string("^profile$", Some(NAME)),
        ];
        Rule::new(command, states, keys)
    };
    let capacity = || KeyRule::string("^capacity$", Some(CAPACITY));
    let used = "Proposal,Setup,PreRun,PostRun,Teardown";
    let mut jobdw = storage("jobdw", used, "jobdw_name", capacity().required());
    jobdw.rule_defs.push(requires());
    vec![
        jobdw,
        storage(
            "create_persistent",
            "Proposal,Setup,Teardown",
            "create_persistent_name",
            capacity(),
        ),
        Rule::new(
            "destroy_persistent",
            "Proposal,Teardown",
            vec![
                KeyRule::string("^name$", Some(NAME)).required().unique("destroy_persistent_name"),
            ],
        ),
        Rule::new(
            "persistentdw",
            used,
            vec![KeyRule::string("^name$", Some(NAME)).required(), requires()],
        ),
        copy("copy_in", "Proposal,DataIn,Teardown"),
        copy("copy_out", "Proposal,DataOut,Teardown"),
        Rule::new(
            "container",
            used,
            vec![
                KeyRule::string("^name$", Some(NAME)).required(),
                KeyRule::string("^profile$", Some(NAME)).required(),
                KeyRule::string("^(DW_JOB_|DW_PERSISTENT_|DW_GLOBAL_)[a-z][a-z0-9_]+$", None),
            ],
        ),
    ]
}

impl Rule {
    fn new(command: &str, watch_states: &str, rule_defs: Vec<KeyRule>) -> Self {
        let (command, watch_states) = (command.to_owned(), watch_states.to_owned());
        Self { command, driver_label: String::new(), watch_states, rule_defs }
    }
}

impl KeyRule {
    /// An optional string; every argument of the NNF ruleset needs a value when it is given.
    fn string(key: &str, pattern: Option<&str>) -> Self {
        Self {
            key: key.to_owned(),
            value_type: ValueType::String,
            pattern: pattern.map(str::to_owned),
            patterns: Vec::new(),
            min: 0,
            max: 0,
            is_required: false,
            is_value_required: true,
            unique_within: None,
        }
    }

    fn list(key: &str, patterns: &[&str]) -> Self {
        let patterns = patterns.iter().map(|p| (*p).to_owned()).collect();
        Self { value_type: ValueType::ListOfString, patterns, ..Self::string(key, None) }
    }

    fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    fn unique(mut self, tag: &str) -> Self {
        self.unique_within = Some(tag.to_owned());
        self
    }

    /// The key as a person writes it: without the anchors.
    fn name(&self) -> &str {
        self.key.trim_start_matches('^').trim_end_matches('$')
    }
}

/// A rule that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("rule for '{command}': {source}")]
pub struct RuleError {
    /// The rule's command.
    pub command: String,
    /// What is wrong with a pattern of it.
    pub source: Box<regex::Error>,
}

/// Rules with their patterns compiled.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<(Rule, Vec<Patterns>)>,
}

#[derive(Debug)]
struct Patterns {
    key: Regex,
    pattern: Option<Regex>,
    patterns: Vec<Regex>,
}

/// Patterns come from objects written for Go, where `\d` and its kin are ASCII.
fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).unicode(false).build()
}

impl RuleSet {
    /// Compiles rules.
    ///
    /// # Errors
    /// When a pattern is no regular expression.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RuleError> {
        let patterns_of = |key: &KeyRule| -> Result<Patterns, regex::Error> {
            Ok(Patterns {
                key: compile(&key.key)?,
                pattern: match (key.value_type, &key.pattern) {
                    (ValueType::String, Some(pattern)) => Some(compile(pattern)?),
                    _ => None,
                },
                patterns: key.patterns.iter().map(|p| compile(p)).collect::<Result<_, _>>()?,
            })
        };
        let mut compiled = Vec::with_capacity(rules.len());
        for rule in rules {
            let patterns: Result<Vec<_>, _> = rule.rule_defs.iter().map(patterns_of).collect();
            match patterns {
                Ok(patterns) => compiled.push((rule, patterns)),
                Err(source) => {
                    return Err(RuleError { command: rule.command, source: Box::new(source) });
                }
            }
        }
        Ok(Self { rules: compiled })
    }

    /// The rules of NNF.
    #[must_use]
    pub fn nnf() -> Self {
        #[allow(clippy::expect_used)]
        Self::new(nnf()).expect("the built-in patterns are constants that a test compiles")
    }

    /// Everything that the rules refuse about these directives.
    #[must_use]
    pub fn check(&self, directives: &[Directive]) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut seen: HashMap<(&str, &str), usize> = HashMap::new();
        for directive in directives {
            let mut known = false;
            for (rule, patterns) in &self.rules {
                if rule.command == directive.command {
                    known = true;
                    check_rule(directive, rule, patterns, &mut seen, &mut faults);
                }
            }
            if !known {
                let commands: Vec<_> = self.rules.iter().map(|(r, _)| r.command.as_str()).collect();
                let problem = format!(
                    "unknown command '{}'; known are {}",
                    directive.command,
                    commands.join(", ")
                );
                faults.push(Fault::new(directive.line, problem));
            }
        }
        faults
    }
}

fn check_rule<'a>(
    directive: &'a Directive,
    rule: &'a Rule,
    patterns: &[Patterns],
    seen: &mut HashMap<(&'a str, &'a str), usize>,
    faults: &mut Vec<Fault>,
) {
    let line = directive.line;
    let command = &directive.command;
    let mut given = vec![false; rule.rule_defs.len()];
    for argument in &directive.arguments {
        let found = patterns.iter().position(|p| p.key.is_match(argument.key.as_bytes()));
        let Some(index) = found else {
            let allowed: Vec<_> = rule.rule_defs.iter().map(KeyRule::name).collect();
            let allowed = allowed.join(", ");
            let problem =
                format!("{command} has no argument '{}'; it takes {allowed}", argument.key);
            faults.push(Fault::new(line, problem));
            continue;
        };
        given[index] = true;
        let key = &rule.rule_defs[index];
        if let Err(problem) = check_value(argument, key, &patterns[index]) {
            faults.push(Fault::new(line, format!("{command}: {problem}")));
        } else if let (Some(tag), Some(value)) = (&key.unique_within, &argument.value)
            && let Some(earlier) = seen.insert((tag, value), line)
        {
            let problem =
                format!("{command}: {}={value} is already used in line {earlier}", argument.key);
            faults.push(Fault::new(line, problem));
        }
    }
    for (key, given) in rule.rule_defs.iter().zip(given) {
        if key.is_required && !given {
            let problem = format!("{command} needs the argument '{}='", key.name());
            faults.push(Fault::new(line, problem));
        }
    }
}

fn check_value(argument: &Argument, rule: &KeyRule, patterns: &Patterns) -> Result<(), String> {
    let key = &argument.key;
    let Some(value) = argument.value.as_deref() else {
        if rule.is_value_required {
            return Err(format!("argument '{key}' needs a value: {key}=…"));
        }
        return Ok(());
    };
    match rule.value_type {
        ValueType::Integer => {
            let number: i64 =
                value.parse().map_err(|_| format!("{key}={value} is not an integer"))?;
            if rule.min != 0 && number < rule.min {
                return Err(format!("{key}={value} is less than {}", rule.min));
            }
            if rule.max != 0 && number > rule.max {
                return Err(format!("{key}={value} is more than {}", rule.max));
            }
        }
        ValueType::Bool => {
            if rule.pattern.is_some() && value != "true" && value != "false" {
                return Err(format!("{key}={value} is neither true nor false"));
            }
        }
        ValueType::String => {
            if let Some(pattern) = &patterns.pattern
                && !pattern.is_match(value.as_bytes())
            {
                return Err(format!("{key}={value} is not allowed; it must match {pattern}"));
            }
        }
        ValueType::ListOfString => {
            for word in value.split(',') {
                if !patterns.patterns.iter().any(|p| p.is_match(word.as_bytes())) {
                    let allowed: Vec<_> = rule.patterns.iter().map(String::as_str).collect();
                    let allowed = allowed.join(" or ");
                    return Err(format!(
                        "'{word}' in {key}= is not allowed; it must match {allowed}"
                    ));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn faults(script: &str) -> Vec<String> {
        let (directives, faults) = parse(script.as_bytes());
        assert_eq!(faults, []);
        RuleSet::nnf().check(&directives).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_directives_of_the_handbook_are_accepted() {
        let script = "#DW jobdw type=xfs capacity=10GiB name=my-scratch profile=abc requires=copy-offload,user-container-auth\n\
            #DW create_persistent type=lustre name=keep\n#DW destroy_persistent name=old\n\
            #DW persistentdw name=keep2\n#DW copy_in source=/a destination=$DW_JOB_my_scratch\n\
            #DW copy_out source= destination=/b\n\
            #DW container name=con profile=red DW_JOB_foo_local=my-scratch\n";
        assert_eq!(faults(script), [""; 0]);
    }

    #[test]
    fn wrong_directives_say_their_line_and_what_is_allowed() {
        let script = "#DW stage_in a=b\n#DW copy_in source=/a verify=yes\n\
            #DW jobdw type=ext4 capacity=10 name=A_b\n#DW copy_out source destination=/x\n";
        let faults = faults(script);
        let expected = [
            "line 1: unknown command 'stage_in'; known are jobdw, create_persistent, destroy_persistent, persistentdw, copy_in, copy_out, container",
            "line 2: copy_in has no argument 'verify'; it takes source, destination, profile",
            "line 2: copy_in needs the argument 'destination='",
            "line 3: jobdw: type=ext4 is not allowed; it must match ^(raw|xfs|gfs2|lustre)$",
            "line 3: jobdw: capacity=10 is not allowed; it must match ^\\d+(KiB|KB|MiB|MB|GiB|GB|TiB|TB)$",
            "line 3: jobdw: name=A_b is not allowed; it must match ^[a-z][a-z0-9-]+$",
            "line 4: copy_out: argument 'source' needs a value: source=…",
        ];
        assert_eq!(faults, expected);
    }

    #[test]
    fn names_are_unique_within_their_tag_only() {
        let script = "#DW jobdw type=xfs capacity=1GB name=ab\n#DW persistentdw name=ab\n\
            #DW persistentdw name=ab\n#DW jobdw type=raw capacity=1GB name=ab\n";
        assert_eq!(faults(script), ["line 4: jobdw: name=ab is already used in line 1"]);
    }

    #[test]
    fn digits_are_ascii_and_lists_are_checked_word_by_word() {
        let script = "#DW jobdw type=xfs capacity=\u{0661}GB name=ab requires=copy-offload,other\n";
        assert_eq!(faults(script).len(), 2);
    }

    #[test]
    fn integers_and_booleans_follow_the_object_model() {
        let mut size = KeyRule::string("^n$", None);
        size.value_type = ValueType::Integer;
        (size.min, size.max) = (2, 5);
        let mut flag = KeyRule::string("^flag$", Some("x"));
        flag.value_type = ValueType::Bool;
        let rules = RuleSet::new(vec![Rule::new("c", "", vec![size, flag])]).unwrap();
        let count = |text: &str| rules.check(&parse(text.as_bytes()).0).len();
        assert_eq!(count("#DW c n=2 flag=true\n#DW c n=5 flag=false"), 0);
        assert_eq!(count("#DW c n=1 flag=yes\n#DW c n=6\n#DW c n=x"), 4);
        assert!(RuleSet::new(vec![Rule::new("c", "", vec![KeyRule::string("(", None)])]).is_err());
    }

    #[test]
    fn rules_have_the_objects_json_names() {
        let json = serde_json::to_value(&nnf()[0]).unwrap();
        assert_eq!(json["watchStates"], "Proposal,Setup,PreRun,PostRun,Teardown");
        assert_eq!(json["ruleDefs"][0]["type"], "string");
        assert_eq!(json["ruleDefs"][0]["isValueRequired"], true);
        assert_eq!(json["ruleDefs"][2]["uniqueWithin"], "jobdw_name");
        assert_eq!(json["ruleDefs"][4]["type"], "list-of-string");
        let back: Rule = serde_json::from_value(json).unwrap();
        assert_eq!(back, nnf()[0]);
    }
}
