//! The first state: everything that can be known to be wrong with a run is found here, before the
//! first byte is written. It only reads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::access::{deepest_existing, destination_writable, readable, writable_directory};
use super::body::Interpreter;
use super::leg::{Leg, Volumes, legs};
use super::persistent::{Instance, Instances, in_use};
use super::space::{Need, Room, may_share_blocks};
use super::storage::{Volume, job_root};
use super::{Request, RunError, State};
use crate::directive::Fault;
use crate::directive::filesystems::Filesystems;
use crate::directive::parse::{Directive, parse};
use crate::directive::resolve::{Direction, Holder, Place, Workflow, resolve};
use crate::directive::rules::RuleSet;
use crate::display::human::bytes;
use crate::error::show;

/// A script that was read.
#[derive(Debug, Clone)]
pub struct Script {
    /// Its real path.
    pub path: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
}

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// [`RunError::Refused`] when it cannot be read.
    pub fn read(path: &Path) -> Result<Self, RunError> {
        let refuse = |error: io::Error| {
            RunError::Refused(format!("{}: failed to read the job script: {error}", show(path)))
        };
        let content = fs::read(path).map_err(refuse)?;
        Ok(Self { path: fs::canonicalize(path).map_err(refuse)?, content })
    }
}

/// Who the run is: what its storage is named after.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Of the run.
    pub uid: String,
    /// In index directories.
    pub node: String,
    /// Of each xfs and gfs2 storage.
    pub allocations: u32,
    /// The earlier run whose storage goes before this one begins.
    pub discards: Option<String>,
}

impl Identity {
    /// The runs whose traces are no obstacle to this one.
    fn own(&self) -> Vec<&str> {
        let own = std::iter::once(&self.uid).chain(&self.discards);
        own.map(String::as_str).collect()
    }
}

/// A run that can begin.
#[derive(Debug)]
pub struct Proposal {
    /// What the script asks for.
    pub workflow: Workflow,
    /// Its storages.
    pub volumes: Volumes,
    /// Its single copies, in the order of the script.
    pub legs: Vec<Leg>,
    /// What runs the body.
    pub interpreter: Interpreter,
    /// What is ignored on one machine.
    pub notes: Vec<String>,
}

impl Proposal {
    /// Reads and checks. `from` is the state that the run goes on in: what is behind it is not
    /// checked again.
    ///
    /// # Errors
    /// [`RunError::Script`] with everything that is wrong, or [`RunError::Refused`].
    pub fn new(
        request: &Request,
        script: &Script,
        identity: &Identity,
        from: State,
    ) -> Result<Self, RunError> {
        let fail = |faults| RunError::Script { script: request.script.clone(), faults };
        let filesystems = read_filesystems(&request.filesystems)?;
        let (directives, mut faults) = parse(&script.content);
        faults.extend(RuleSet::nnf().check(&directives));
        faults.extend(only_on_clusters(&directives));
        if !faults.is_empty() {
            faults.sort_by_key(|fault| fault.line);
            return Err(fail(faults));
        }
        let instances = Instances::of(&request.storage);
        let known = instances.list()?;
        let types = known.iter().map(|(name, i)| (name.clone(), i.storage_type)).collect();
        let mut workflow = match resolve(&directives, &filesystems, &types) {
            Ok(workflow) => workflow,
            // In Teardown the instances may be gone already, and nothing else matters any more.
            Err(_) if from >= State::Teardown => Workflow::default(),
            Err(faults) => return Err(fail(faults)),
        };
        if from >= State::Teardown {
            workflow.destroys = destroys(&directives);
            workflow.copies.clear();
        }
        let volumes = volumes(&workflow, request, identity, &instances, &known);
        let mut all = Vec::new();
        for copy in &workflow.copies {
            match legs(copy, &volumes) {
                Ok(legs) => all.extend(legs),
                Err(problem) => faults.push(Fault::new(copy.line, problem)),
            }
        }
        let interpreter = Interpreter::of(&script.content);
        let notes = ignored(&directives);
        let proposal = Self { workflow, volumes, legs: all, interpreter, notes };
        proposal.check(request, identity, from, &instances, &known, &mut faults)?;
        if faults.is_empty() {
            Ok(proposal)
        } else {
            faults.sort_by_key(|fault| fault.line);
            Err(fail(faults))
        }
    }

    fn check(
        &self,
        request: &Request,
        identity: &Identity,
        from: State,
        instances: &Instances,
        known: &BTreeMap<String, Instance>,
        faults: &mut Vec<Fault>,
    ) -> Result<(), RunError> {
        let storage = deepest_existing(&request.storage);
        if let Err(problem) = writable_directory(&storage) {
            let path = show(&request.storage);
            return Err(RunError::Refused(format!(
                "{path}: the storage directory cannot be used: {problem}; choose another one with --storage"
            )));
        }
        for create in &self.workflow.creates {
            let Some(instance) = known.get(&create.name) else {
                continue;
            };
            let goes = match &identity.discards {
                Some(earlier) if instance.uid == *earlier => {
                    instances.is_empty(&create.name, instance, earlier)?
                }
                _ => instance.uid == identity.uid,
            };
            if !goes {
                let problem = format!("persistent storage '{}' exists already", create.name);
                faults.push(Fault::new(create.line, problem));
            }
        }
        for destroy in &self.workflow.destroys {
            let users = instances.users(&destroy.name, &identity.own())?;
            if !users.is_empty() {
                faults.push(Fault::new(destroy.line, in_use(&destroy.name, &users)));
            }
        }
        if from <= State::Job
            && let Err(error) = access(&self.interpreter.program, AccessFlags::X_OK)
        {
            let program = show(&self.interpreter.program);
            let problem = format!("the interpreter {program} cannot be run: {}", error.desc());
            faults.push(Fault::new(1, problem));
        }
        if from <= State::DataIn {
            let mut needs = Vec::new();
            for leg in self.legs_of(Direction::CopyIn) {
                match readable(&leg.source, &request.storage) {
                    Ok(()) => needs.push(leg),
                    Err(problem) => {
                        let problem = format!("source={}: {problem}", show(&leg.source));
                        let fault = Fault::new(leg.line, problem);
                        if !faults.contains(&fault) {
                            faults.push(fault); // once, not for each allocation
                        }
                    }
                }
            }
            // A resumed run has part of it in place already.
            if from < State::DataIn && faults.is_empty() {
                self.check_room(&needs, &storage, faults);
            }
        }
        if from <= State::DataOut {
            for copy in &self.workflow.copies {
                if let (Direction::CopyOut, Place::Global(path)) =
                    (copy.direction, &copy.destination)
                    && let Err(problem) = destination_writable(path)
                {
                    let problem = format!("destination={}: {problem}", show(path));
                    faults.push(Fault::new(copy.line, problem));
                }
            }
        }
        Ok(())
    }

    /// Copies into storage against its room and against `capacity=`.
    fn check_room(&self, legs: &[&Leg], storage: &Path, faults: &mut Vec<Fault>) {
        let mut measured: BTreeMap<&Path, Need> = BTreeMap::new();
        let mut total = Need::default();
        let mut shared = false;
        for leg in legs {
            let need = *measured.entry(&leg.source).or_insert_with(|| Need::of(&leg.source));
            total = total.and(need);
            shared |= may_share_blocks(&leg.source, storage);
        }
        if let Ok(room) = Room::at(storage)
            && !shared
            && let Some(lack) = room.lacks(total)
            && let Some(first) = legs.first()
        {
            let path = show(storage);
            let problem = format!(
                "what is copied in does not fit into {path}: {lack}; free some, or choose another \
                 place with --storage"
            );
            faults.push(Fault::new(first.line, problem));
        }
        for job in &self.workflow.jobs {
            let mut need = Need::default();
            for copy in &self.workflow.copies {
                let into = matches!(&copy.destination, Place::Storage { holder, .. } if *holder == Holder::Job(job.index));
                // Capacity is that of one allocation, and each of them gets one leg of the copy.
                if into && let Some(leg) = legs.iter().find(|leg| leg.index == copy.index) {
                    need =
                        need.and(measured.get(leg.source.as_path()).copied().unwrap_or_default());
                }
            }
            if let Some(capacity) = job.capacity_bytes.filter(|capacity| need.bytes > *capacity) {
                let problem = format!(
                    "{} are copied into '{}', which has a capacity of {}",
                    bytes(need.bytes),
                    job.name,
                    bytes(capacity)
                );
                faults.push(Fault::new(job.line, problem));
            }
        }
    }

    /// The legs of one direction.
    pub fn legs_of(&self, direction: Direction) -> impl Iterator<Item = &Leg> {
        self.legs.iter().filter(move |leg| leg.direction == direction)
    }
}

fn volumes(
    workflow: &Workflow,
    request: &Request,
    identity: &Identity,
    instances: &Instances,
    known: &BTreeMap<String, Instance>,
) -> Volumes {
    let Identity { uid, node, allocations, .. } = identity;
    let mut volumes = Volumes::default();
    for job in &workflow.jobs {
        let root = job_root(&request.storage, uid, job.index);
        volumes.jobs.insert(job.index, Volume::new(job.storage_type, root, node, *allocations));
    }
    for mention in &workflow.persistents {
        if let Some(instance) = known.get(&mention.name) {
            let volume = instances.volume(&mention.name, instance);
            volumes.persistents.insert(mention.name.clone(), volume);
        }
    }
    volumes
}

fn read_filesystems(files: &[PathBuf]) -> Result<Filesystems, RunError> {
    let mut filesystems = Filesystems::default();
    for file in files {
        let refuse = |error: String| RunError::Refused(format!("{}: {error}", show(file)));
        let text = fs::read_to_string(file)
            .map_err(|error| refuse(format!("failed to read it: {error}")))?;
        filesystems.add_yaml(&text).map_err(|error| refuse(error.to_string()))?;
    }
    Ok(filesystems)
}

fn destroys(directives: &[Directive]) -> Vec<crate::directive::resolve::Mention> {
    let destroy = directives.iter().enumerate().filter(|(_, d)| d.command == "destroy_persistent");
    destroy
        .map(|(index, d)| {
            let name = d.value("name").unwrap_or_default().to_owned();
            crate::directive::resolve::Mention { index, line: d.line, name }
        })
        .collect()
}

fn only_on_clusters(directives: &[Directive]) -> Vec<Fault> {
    let containers = directives.iter().filter(|d| d.command == "container");
    let problem = "containers run on a cluster only; longshore run starts none on one machine";
    containers.map(|d| Fault::new(d.line, problem)).collect()
}

fn ignored(directives: &[Directive]) -> Vec<String> {
    let mut notes = Vec::new();
    for directive in directives {
        for key in ["profile", "requires"] {
            if let Some(value) = directive.value(key) {
                let line = directive.line;
                notes.push(format!("line {line}: {key}={value} has no effect on one machine"));
            }
        }
    }
    notes
}
