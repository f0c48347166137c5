//! The variables that the job body gets, named as on the cluster. Pure: it sets nothing.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::Path;

use super::leg::Volumes;
use super::storage::Volume;
use crate::directive::resolve::Workflow;

/// The namespace that workflows live in on a cluster.
const NAMESPACE: &str = "default";

/// All variables, in a stable order.
///
/// On the cluster each compute sees its own allocation under the same path, without an index
/// directory. Here the job is the first compute: its path is allocation 0. All of them are in
/// `LONGSHORE_ALLOCATIONS_<name>`, separated by colons.
#[must_use]
pub fn variables(script: &Path, workflow: &Workflow, volumes: &Volumes) -> Vec<(String, OsString)> {
    let mut variables = vec![
        ("DW_WORKFLOW_NAME".to_owned(), workflow_name(script).into()),
        ("DW_WORKFLOW_NAMESPACE".to_owned(), NAMESPACE.into()),
    ];
    let mut list = OsString::new();
    let mut types = HashSet::new();
    for job in &workflow.jobs {
        let Some(volume) = volumes.jobs.get(&job.index) else {
            continue;
        };
        storage("DW_JOB_", &job.name, volume, &mut variables, &mut list);
        // The first of each type, as on the cluster.
        let word = job.storage_type.word();
        if types.insert(word) {
            variables.push((format!("DW_JOB_{}", word.to_uppercase()), volume.job_path().into()));
        }
    }
    if !workflow.jobs.is_empty() {
        variables.push(("DW_JOBS".to_owned(), std::mem::take(&mut list)));
    }
    for mention in &workflow.persistents {
        if let Some(volume) = volumes.persistents.get(&mention.name) {
            storage("DW_PERSISTENT_", &mention.name, volume, &mut variables, &mut list);
        }
    }
    if !workflow.persistents.is_empty() {
        variables.push(("DW_PERSISTENTS".to_owned(), list));
    }
    variables
}

fn storage(
    prefix: &str,
    name: &str,
    volume: &Volume,
    variables: &mut Vec<(String, OsString)>,
    list: &mut OsString,
) {
    let variable = name.replace('-', "_");
    let path = volume.job_path();
    if !list.is_empty() {
        list.push(",");
    }
    list.push(name);
    list.push(":");
    list.push(&path);
    variables.push((format!("{prefix}{variable}"), path.into()));
    if volume.allocations.is_some() {
        let mut all = OsString::new();
        for directory in volume.directories() {
            if !all.is_empty() {
                all.push(":");
            }
            all.push(directory);
        }
        variables.push((format!("LONGSHORE_ALLOCATIONS_{variable}"), all));
    }
}

/// A name that a Kubernetes object could have, from the script's.
#[must_use]
pub fn workflow_name(script: &Path) -> String {
    let stem = script.file_stem().unwrap_or_default().to_string_lossy().to_lowercase();
    let name: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "job".into() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::directive::filesystems::Filesystems;
    use crate::directive::parse::parse;
    use crate::directive::resolve::{StorageType, resolve};

    #[test]
    fn names_are_those_of_the_cluster() {
        let script = "#DW jobdw type=xfs capacity=1GB name=my-scratch\n\
            #DW jobdw type=lustre capacity=1GB name=shared\n\
            #DW jobdw type=xfs capacity=1GB name=more\n#DW persistentdw name=keep-it\n";
        let instances = BTreeMap::from([("keep-it".to_owned(), StorageType::Lustre)]);
        let (directives, _) = parse(script.as_bytes());
        let workflow = resolve(&directives, &Filesystems::default(), &instances).unwrap();
        let mut volumes = Volumes::default();
        for job in &workflow.jobs {
            let root = format!("/s/u-{}", job.index).into();
            volumes.jobs.insert(job.index, Volume::new(job.storage_type, root, "n", 2));
        }
        let keep = Volume::new(StorageType::Lustre, "/s/p/k".into(), "n", 2);
        volumes.persistents.insert("keep-it".into(), keep);
        let variables: BTreeMap<_, _> =
            variables(Path::new("/x/My Job.sh"), &workflow, &volumes).into_iter().collect();
        let value = |name: &str| variables[name].to_str().unwrap();
        assert_eq!(value("DW_WORKFLOW_NAME"), "my-job");
        assert_eq!(value("DW_WORKFLOW_NAMESPACE"), "default");
        assert_eq!(value("DW_JOB_my_scratch"), "/s/u-0/n-0");
        assert_eq!(value("DW_JOB_shared"), "/s/u-1");
        assert_eq!(value("DW_JOB_XFS"), "/s/u-0/n-0");
        assert_eq!(value("DW_JOB_LUSTRE"), "/s/u-1");
        assert_eq!(value("DW_JOBS"), "my-scratch:/s/u-0/n-0,shared:/s/u-1,more:/s/u-2/n-0");
        assert_eq!(value("LONGSHORE_ALLOCATIONS_my_scratch"), "/s/u-0/n-0:/s/u-0/n-1");
        assert_eq!(value("DW_PERSISTENT_keep_it"), "/s/p/k");
        assert_eq!(value("DW_PERSISTENTS"), "keep-it:/s/p/k");
        assert!(!variables.contains_key("LONGSHORE_ALLOCATIONS_shared"));
    }
}
