//! Third step of a script: what its directives mean together. Storages get their index, copies get
//! their two ends. It does not know where storage lies on a machine, nor whether a path exists.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Fault;
use super::filesystems::Filesystems;
use super::parse::Directive;

/// What a storage is formatted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)] // named as in `type=`
pub enum StorageType {
    Raw,
    Xfs,
    Gfs2,
    Lustre,
}

impl StorageType {
    /// Whether every compute has an allocation of its own, with an index directory each.
    #[must_use]
    pub fn is_per_compute(self) -> bool {
        matches!(self, Self::Xfs | Self::Gfs2)
    }

    /// The word of `type=`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Xfs => "xfs",
            Self::Gfs2 => "gfs2",
            Self::Lustre => "lustre",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Raw, Self::Xfs, Self::Gfs2, Self::Lustre].into_iter().find(|t| t.word() == word)
    }
}

/// `jobdw` or `create_persistent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Index among the script's directives, from 0.
    pub index: usize,
    /// The line.
    pub line: usize,
    /// The name as written, with dashes.
    pub name: String,
    /// Its type.
    pub storage_type: StorageType,
    /// `capacity=`.
    pub capacity_bytes: Option<u64>,
}

/// `persistentdw` or `destroy_persistent`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Index among the script's directives, from 0.
    pub index: usize,
    /// The line.
    pub line: usize,
    /// The instance.
    pub name: String,
}

/// Which storage a path is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The `jobdw` with this directive index.
    Job(usize),
    /// The persistent instance of this name.
    Persistent(String),
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In job or persistent storage.
    Storage {
        /// Which one.
        holder: Holder,
        /// Its type.
        storage_type: StorageType,
        /// The rest of the argument: empty, or from the first slash on. A trailing slash counts.
        path: String,
    },
    /// On a global filesystem.
    Global(PathBuf),
}

/// Which state a copy belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// `copy_in`
    CopyIn,
    /// `copy_out`
    CopyOut,
}

impl Direction {
    /// The directive's command.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::CopyIn => "copy_in",
            Self::CopyOut => "copy_out",
        }
    }
}

/// `copy_in` or `copy_out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Index among the script's directives, from 0.
    pub index: usize,
    /// The line.
    pub line: usize,
    /// Which way.
    pub direction: Direction,
    /// `source=`
    pub source: Place,
    /// `destination=`
    pub destination: Place,
}

/// What a script asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workflow {
    /// `jobdw`
    pub jobs: Vec<Storage>,
    /// `create_persistent`
    pub creates: Vec<Storage>,
    /// `destroy_persistent`
    pub destroys: Vec<Mention>,
    /// `persistentdw`
    pub persistents: Vec<Mention>,
    /// `copy_in` and `copy_out`
    pub copies: Vec<Copy>,
}

/// Finds out what directives that passed the rules mean. `instances` are the persistent storages
/// that exist now: as on the cluster, one that the script itself creates does not count, since it
/// is made only after this check.
///
/// # Errors
/// Everything that does not fit together.
pub fn resolve(
    directives: &[Directive],
    filesystems: &Filesystems,
    instances: &BTreeMap<String, StorageType>,
) -> Result<Workflow, Vec<Fault>> {
    let mut workflow = Workflow::default();
    let mut faults = Vec::new();
    for (index, directive) in directives.iter().enumerate() {
        let line = directive.line;
        let name = directive.value("name").unwrap_or_default().to_owned();
        match directive.command.as_str() {
            command @ ("jobdw" | "create_persistent") => {
                let word = directive.value("type").unwrap_or_default();
                let Some(storage_type) = StorageType::from_word(word) else {
                    faults.push(Fault::new(line, format!("unknown storage type '{word}'")));
                    continue;
                };
                let capacity_bytes = directive.value("capacity").and_then(capacity_bytes);
                if capacity_bytes.is_none() && directive.value("capacity").is_some() {
                    faults.push(Fault::new(line, "capacity= is larger than any filesystem"));
                }
                let storage = Storage { index, line, name, storage_type, capacity_bytes };
                let list =
                    if command == "jobdw" { &mut workflow.jobs } else { &mut workflow.creates };
                list.push(storage);
            }
            "persistentdw" => workflow.persistents.push(Mention { index, line, name }),
            "destroy_persistent" => workflow.destroys.push(Mention { index, line, name }),
            _ => {}
        }
    }
    check_instances(&workflow, instances, &mut faults);
    for (index, directive) in directives.iter().enumerate() {
        let direction = match directive.command.as_str() {
            "copy_in" => Direction::CopyIn,
            "copy_out" => Direction::CopyOut,
            _ => continue,
        };
        let line = directive.line;
        let mut end = |key: &str| {
            let argument = directive.value(key).unwrap_or_default();
            place(argument, &workflow, filesystems, instances)
                .map_err(|problem| {
                    faults.push(Fault::new(line, format!("{key}={argument}: {problem}")))
                })
                .ok()
        };
        let (source, destination) = (end("source"), end("destination"));
        let (Some(source), Some(destination)) = (source, destination) else {
            continue;
        };
        let (key, inner) = match direction {
            Direction::CopyIn => ("destination", &destination),
            Direction::CopyOut => ("source", &source),
        };
        if matches!(inner, Place::Global(_)) {
            let problem = format!(
                "{} needs a {key}= in job or persistent storage ($DW_JOB_… or $DW_PERSISTENT_…)",
                direction.command()
            );
            faults.push(Fault::new(line, problem));
            continue;
        }
        workflow.copies.push(Copy { index, line, direction, source, destination });
    }
    if faults.is_empty() {
        Ok(workflow)
    } else {
        faults.sort_by_key(|fault| fault.line);
        Err(faults)
    }
}

fn check_instances(
    workflow: &Workflow,
    instances: &BTreeMap<String, StorageType>,
    faults: &mut Vec<Fault>,
) {
    for mention in workflow.persistents.iter().chain(&workflow.destroys) {
        if !instances.contains_key(&mention.name) {
            let own = workflow.creates.iter().find(|c| c.name == mention.name);
            let hint = own.map_or_else(
                || "; create it with #DW create_persistent in a job of its own".to_owned(),
                |create| format!("; line {} creates it only in this run's Setup", create.line),
            );
            let problem = format!("persistent storage '{}' does not exist{hint}", mention.name);
            faults.push(Fault::new(mention.line, problem));
        }
    }
}

/// Which end of a copy an argument names.
fn place(
    argument: &str,
    workflow: &Workflow,
    filesystems: &Filesystems,
    instances: &BTreeMap<String, StorageType>,
) -> Result<Place, String> {
    if let Some(rest) = argument.strip_prefix("$DW_JOB_") {
        let (name, path) = split_name(rest)?;
        let Some(job) = workflow.jobs.iter().find(|job| job.name == name) else {
            let names = listed(workflow.jobs.iter().map(|job| job.name.as_str()));
            return Err(format!("the script has no #DW jobdw with name={name}{names}"));
        };
        if job.storage_type == StorageType::Raw {
            return Err(format!("nothing can be copied to or from '{name}', which has type=raw"));
        }
        let (holder, storage_type) = (Holder::Job(job.index), job.storage_type);
        return Ok(Place::Storage { holder, storage_type, path });
    }
    if let Some(rest) = argument.strip_prefix("$DW_PERSISTENT_") {
        let (name, path) = split_name(rest)?;
        if !workflow.persistents.iter().any(|mention| mention.name == name) {
            return Err(format!("the script has no #DW persistentdw with name={name}"));
        }
        let Some(storage_type) = instances.get(&name).copied() else {
            return Err(format!("persistent storage '{name}' does not exist"));
        };
        if storage_type == StorageType::Raw {
            return Err(format!("nothing can be copied to or from '{name}', which has type raw"));
        }
        return Ok(Place::Storage { holder: Holder::Persistent(name), storage_type, path });
    }
    global(argument, filesystems)
}

fn global(argument: &str, filesystems: &Filesystems) -> Result<Place, String> {
    let path = Path::new(argument);
    if argument.is_empty() {
        return Err("the path is empty".into());
    }
    if !path.is_absolute() {
        let hint = if argument.starts_with(['$', '~']) {
            "; nothing is expanded in a #DW line but $DW_JOB_… and $DW_PERSISTENT_… at its start"
        } else {
            ""
        };
        return Err(format!("the path must be absolute{hint}"));
    }
    if filesystems.is_empty() {
        return Ok(Place::Global(path.to_owned()));
    }
    // With '..' a path could leave the filesystem that it seems to be on.
    if path.components().any(|part| part == Component::ParentDir) {
        return Err("write the path without '..'".into());
    }
    if filesystems.holding(path).is_none() {
        let roots = filesystems.roots();
        return Err(format!("no global filesystem contains the path; known are {roots}"));
    }
    Ok(Place::Global(path.to_owned()))
}

fn split_name(rest: &str) -> Result<(String, String), String> {
    let (name, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    if Path::new(path).components().any(|part| part == Component::ParentDir) {
        return Err("'..' would leave the storage".into());
    }
    Ok((name.replace('_', "-"), path.to_owned()))
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    if names.is_empty() { String::new() } else { format!("; it has {}", names.join(", ")) }
}

/// The bytes of a `capacity=` that passed its rule; `None` when it does not fit.
fn capacity_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn with(script: &str, filesystems: &Filesystems) -> Result<Workflow, Vec<String>> {
        let (directives, faults) = parse(script.as_bytes());
        assert_eq!(faults, []);
        let instances = BTreeMap::from([
            ("keep".to_owned(), StorageType::Lustre),
            ("block".to_owned(), StorageType::Raw),
        ]);
        resolve(&directives, filesystems, &instances)
            .map_err(|faults| faults.iter().map(ToString::to_string).collect())
    }

    fn resolved(script: &str) -> Result<Workflow, Vec<String>> {
        with(script, &Filesystems::default())
    }

    #[test]
    fn the_handbooks_example_resolves() {
        let workflow = resolved(
            "#DW copy_in source=/lus/in/ destination=$DW_JOB_my_scratch/in\n\
             #DW jobdw type=xfs capacity=10GiB name=my-scratch\n\
             #DW copy_out source=$DW_JOB_my-scratch destination=/lus/out\n",
        )
        .unwrap();
        assert_eq!(workflow.jobs[0].capacity_bytes, Some(10 << 30));
        assert_eq!(workflow.jobs[0].index, 1);
        let storage = |path: &str| Place::Storage {
            holder: Holder::Job(1),
            storage_type: StorageType::Xfs,
            path: path.to_owned(),
        };
        assert_eq!(workflow.copies[0].destination, storage("/in"));
        assert_eq!(workflow.copies[1].source, storage(""));
        assert_eq!(workflow.copies[0].source, Place::Global("/lus/in/".into()));
    }

    #[test]
    fn every_unfit_end_is_reported_with_its_line() {
        let faults = resolved(
            "#DW jobdw type=raw capacity=1GB name=block-dev\n\
             #DW copy_in source=/a destination=$DW_JOB_none/x\n\
             #DW copy_in source=$HOME/a destination=$DW_JOB_block_dev\n\
             #DW copy_in source=/a destination=/b\n\
             #DW copy_out source=/a destination=$DW_PERSISTENT_keep\n\
             #DW copy_in source= destination=$DW_PERSISTENT_gone\n\
             #DW persistentdw name=gone\n",
        )
        .unwrap_err();
        let expect = |line: usize, part: &str| {
            let prefix = format!("line {line}: ");
            let found = faults.iter().any(|f| f.starts_with(&prefix) && f.contains(part));
            assert!(found, "line {line} {part}: {faults:#?}");
        };
        expect(2, "no #DW jobdw with name=none; it has block-dev");
        expect(3, "nothing is expanded");
        expect(3, "type=raw");
        expect(4, "copy_in needs a destination= in job or persistent storage");
        expect(5, "no #DW persistentdw with name=keep");
        expect(6, "the path is empty");
        expect(7, "'gone' does not exist; create it");
        assert_eq!(faults.len(), 8, "{faults:#?}");
    }

    #[test]
    fn a_reversed_direction_is_refused_up_front() {
        let faults = resolved(
            "#DW jobdw type=xfs capacity=1GB name=ab\n\
             #DW copy_in source=$DW_JOB_ab/x destination=/b\n\
             #DW copy_out source=/b destination=$DW_JOB_ab\n",
        )
        .unwrap_err();
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[1].contains("copy_out needs a source= in job or persistent storage"));
    }

    #[test]
    fn an_instance_that_the_script_creates_cannot_be_used_by_it() {
        let faults = resolved(
            "#DW create_persistent type=xfs name=new-one\n#DW persistentdw name=new-one\n",
        )
        .unwrap_err();
        assert!(faults[0].contains("line 1 creates it only in this run's Setup"), "{faults:?}");
    }

    #[test]
    fn storage_paths_stay_inside_and_global_paths_on_known_filesystems() {
        let mut filesystems = Filesystems::default();
        let yaml = "apiVersion: lus.cray.hpe.com/v1beta1\nkind: LustreFileSystem\nmetadata: {name: a}\n\
            spec: {name: lus1, mgsNids: x, mountRoot: /lus/lus1}\n";
        filesystems.add_yaml(yaml).unwrap();
        let copy = |source: &str, destination: &str| {
            let head = "#DW jobdw type=xfs capacity=1GB name=ab\n";
            with(
                &format!("{head}#DW copy_in source={source} destination={destination}\n"),
                &filesystems,
            )
            .err()
            .map(|faults| faults.join("; "))
        };
        assert_eq!(copy("/lus/lus1/x", "$DW_JOB_ab"), None);
        assert!(copy("/lus/lus10/x", "$DW_JOB_ab").unwrap().contains("known are /lus/lus1"));
        assert!(copy("/lus/lus1/../x", "$DW_JOB_ab").unwrap().contains("without '..'"));
        assert!(copy("/lus/lus1/x", "$DW_JOB_ab/../../x").unwrap().contains("leave the storage"));
    }

    #[test]
    fn capacities_have_decimal_and_binary_units() {
        assert_eq!(capacity_bytes("10KB"), Some(10_000));
        assert_eq!(capacity_bytes("3TiB"), Some(3 << 40));
        assert_eq!(capacity_bytes("99999999999999999999TB"), None);
    }
}
