//! What a profile's command asks for. Longshore runs no shell and no MPI: the options that mean something
//! to it are taken over, those that only concern MPI or dcp's own way of working are left out and named,
//! and anything else is refused by name. It runs nothing and looks at no file.

use std::path::Path;

use longshore::api::data_movement::UserConfig;
use longshore::api::data_movement_profile::NnfDataMovementProfileData;
use longshore::arguments;

use super::words;
use crate::verdict::Verdict;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Copy, with these options of `longshore copy`, one word each.
    Copy(Vec<String>),
    /// Only prepare the destination.
    PrepareOnly,
}

/// What a profile and a request ask for together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) task: Task,
    /// The words of the profile that have no meaning here.
    pub(crate) ignored: Vec<String>,
    /// Those of the request, which its author may want to know of.
    pub(crate) ignored_of_user: Vec<String>,
}

/// What dcp keeps when it is not told to preserve: modes and extended attributes; no times, no owner,
/// and further names of a file become files of their own.
const KEPT: &str = "--preserve=mode,xattr";

/// What `dcp --preserve` keeps: of everything but further names of a file, which it copies each.
const KEPT_ON_REQUEST: &str = "--preserve=mode,ownership,timestamps,xattr,acl";

/// Options of mpirun that stand alone.
const MPIRUN_FLAGS: [&str; 19] = [
    "allow-run-as-root",
    "oversubscribe",
    "nooversubscribe",
    "use-hwthread-cpus",
    "report-bindings",
    "tag-output",
    "timestamp-output",
    "quiet",
    "q",
    "verbose",
    "v",
    "display-map",
    "display-allocation",
    "display-topo",
    "bynode",
    "byslot",
    "pernode",
    "nolocal",
    "debug-daemons",
];

/// Options of mpirun with one value.
const MPIRUN_VALUES: [&str; 17] = [
    "hostfile",
    "machinefile",
    "default-hostfile",
    "host",
    "H",
    "map-by",
    "bind-to",
    "rank-by",
    "prefix",
    "x",
    "wdir",
    "wd",
    "path",
    "output-filename",
    "tune",
    "am",
    "cpus-per-proc",
];

/// Options of mpirun with two values.
const MPIRUN_PAIRS: [&str; 2] = ["mca", "gmca"];

/// Options of mpirun that say how many processes there are.
const MPIRUN_PROCESSES: [&str; 6] = ["n", "np", "c", "N", "npernode", "ppn"];

/// What is to be said of a profile before it is stored: why every movement that uses it would be refused,
/// and what of it has no meaning.
pub(crate) fn validate(profile: &NnfDataMovementProfileData) -> Verdict {
    let mut verdict = Verdict::default();
    match request(profile, &UserConfig::default()) {
        Ok(request) => verdict.warnings.extend(without_meaning(&request.ignored)),
        Err(problem) => verdict.refusals.push(format!("data.command: {problem}")),
    }
    let (slots, most) = (profile.slots, profile.max_slots);
    if most > 0 && slots > most {
        verdict
            .warnings
            .push(format!("slots ({slots}) is more than maxSlots ({most}), which counts"));
    }
    if profile.pinned == Some(true) {
        // A copy for one job: whoever wrote the original was told.
        verdict.warnings.clear();
    }
    verdict
}

/// A sentence about words that were left out, if there are any.
pub(crate) fn without_meaning(words: &[String]) -> Option<String> {
    (!words.is_empty()).then(|| format!("options without meaning here: {}", words.join(", ")))
}

/// What is asked for.
///
/// # Errors
///
/// What cannot be done, by name, and what to write instead.
pub(crate) fn request(
    profile: &NnfDataMovementProfileData,
    user: &UserConfig,
) -> Result<Request, String> {
    let nothing =
        Request { task: Task::PrepareOnly, ignored: Vec::new(), ignored_of_user: Vec::new() };
    if user.dryrun == Some(true) {
        return Ok(nothing);
    }
    let mut commands = words::commands(&profile.command).map_err(|part| refusal(&part))?;
    let last = commands.pop().unwrap_or_default();
    let mut reader = Reader::new(slots(profile, user));
    for command in commands {
        match command.first().map(String::as_str) {
            Some("ulimit" | "cd") => reader.ignored.push(command.join(" ")),
            other => return Err(refusal(&format!("`{}`", other.unwrap_or("&&")))),
        }
    }
    let mut words = last.into_iter().peekable();
    if words.next_if(|word| word == "time").is_some() {
        reader.ignored.push("time".to_owned());
    }
    let mut program = words.next().unwrap_or_default();
    if matches!(base_name(&program), "true" | ":") {
        return Ok(Request { ignored: reader.ignored, ..nothing });
    }
    if base_name(&program) == "longshore" {
        return longshore(words.collect(), reader, user);
    }
    if matches!(base_name(&program), "mpirun" | "mpiexec") {
        reader.read_user(user.mpirun_options.as_deref(), "mpirunOptions", Reader::mpirun)?;
        let mut rest: Vec<String> = words.collect();
        let used = reader.mpirun(&rest)?;
        words = rest.split_off(used).into_iter().peekable();
        program = words.next().unwrap_or_default();
    } else if let Some(options) =
        user.mpirun_options.as_deref().filter(|text| !text.trim().is_empty())
    {
        reader.ignored_of_user.push(options.to_owned());
    }
    if base_name(&program) != "dcp" {
        let named = if program.is_empty() { "an empty command" } else { &program };
        return Err(refusal(&format!("`{named}`")));
    }
    reader.read_user(user.dcp_options.as_deref(), "dcpOptions", Reader::dcp)?;
    let rest: Vec<String> = words.collect();
    let used = reader.dcp(&rest)?;
    ends_with_the_paths(&rest[used..])?;
    Ok(reader.finish())
}

/// `longshore copy` with its own options. Those of the request are for dcp and mpirun.
fn longshore(
    mut words: Vec<String>,
    mut reader: Reader,
    user: &UserConfig,
) -> Result<Request, String> {
    if words.is_empty() || words.remove(0) != "copy" {
        return Err(refusal("`longshore` without `copy`"));
    }
    let paths = words.split_off(words.len().saturating_sub(2));
    ends_with_the_paths(&paths)?;
    if let Some(word) = words.iter().find(|word| word.contains('$')) {
        return Err(refusal(&format!("`{word}`")));
    }
    // The mover reads them in the same way.
    arguments::parse(&words, Path::new("/source"), Path::new("/destination"))
        .map_err(|unusable| unusable.to_string())?;
    let options = [user.mpirun_options.as_deref(), user.dcp_options.as_deref()];
    let options = options.into_iter().flatten().map(str::trim).filter(|text| !text.is_empty());
    reader.ignored_of_user.extend(options.map(str::to_owned));
    for (name, number) in [("slots", user.slots), ("maxSlots", user.max_slots)] {
        reader.ignored_of_user.extend(number.map(|number| format!("{name} {number}")));
    }
    let request = Request {
        task: Task::Copy(words),
        ignored: reader.ignored,
        ignored_of_user: reader.ignored_of_user,
    };
    Ok(request)
}

fn ends_with_the_paths(words: &[String]) -> Result<(), String> {
    match words {
        [source, destination] if source == "$SRC" && destination == "$DEST" => Ok(()),
        [] => Err(refusal("a command without `$SRC $DEST`")),
        _ => Err(refusal(&format!("`{}` where `$SRC $DEST` is expected", words.join(" ")))),
    }
}

/// How many processes there would be on a node; none leaves the choice open.
fn slots(profile: &NnfDataMovementProfileData, user: &UserConfig) -> Option<i64> {
    // A negative value never meant anything.
    let slots = user.slots.filter(|slots| *slots >= 0).unwrap_or(profile.slots);
    let most = user.max_slots.filter(|most| *most >= 0).unwrap_or(profile.max_slots);
    match (slots, most) {
        (1.., 1..) => Some(slots.min(most)),
        (1.., _) => Some(slots),
        (_, 1..) => Some(most),
        _ => None,
    }
}

fn refusal(what: &str) -> String {
    format!(
        "{what} cannot be run: Longshore copies by itself, without a shell; the profile's command has to be \
         `mpirun [OPTIONS] dcp [OPTIONS] $SRC $DEST`, `longshore copy [OPTIONS] $SRC $DEST`, or `true`"
    )
}

fn base_name(program: &str) -> &str {
    program.rsplit('/').next().unwrap_or(program)
}

/// What was read of the options so far. Words that the user gave are read first, so that they decide.
struct Reader {
    /// The threads that the slots come to.
    slots: Option<i64>,
    /// The number of processes that an option of mpirun names.
    processes: Option<i64>,
    preserve: bool,
    xattrs: Option<&'static str>,
    of_user: bool,
    ignored: Vec<String>,
    ignored_of_user: Vec<String>,
}

impl Reader {
    fn new(slots: Option<i64>) -> Self {
        Self {
            slots,
            processes: None,
            preserve: false,
            xattrs: None,
            of_user: false,
            ignored: Vec::new(),
            ignored_of_user: Vec::new(),
        }
    }

    fn finish(self) -> Request {
        let mut options = vec![if self.preserve { KEPT_ON_REQUEST } else { KEPT }.to_owned()];
        options.extend(self.xattrs.map(|policy| format!("--xattrs={policy}")));
        let threads = self.processes.or(self.slots);
        options.extend(threads.map(|threads| format!("--threads={threads}")));
        Request {
            task: Task::Copy(options),
            ignored: self.ignored,
            ignored_of_user: self.ignored_of_user,
        }
    }

    /// Reads options that the user gave, all of which must be options.
    fn read_user(
        &mut self,
        text: Option<&str>,
        field: &str,
        read: fn(&mut Self, &[String]) -> Result<usize, String>,
    ) -> Result<(), String> {
        let inside = |problem: String| format!("userConfig.{field}: {problem}");
        let given = words::options(text.unwrap_or_default())
            .map_err(|part| inside(format!("{part} cannot be part of an option")))?;
        self.of_user = true;
        let used = read(self, &given).map_err(inside)?;
        self.of_user = false;
        match given.get(used) {
            Some(word) => Err(inside(format!("`{word}` is no option"))),
            None => Ok(()),
        }
    }

    fn ignore(&mut self, words: &[String]) {
        let ignored = if self.of_user { &mut self.ignored_of_user } else { &mut self.ignored };
        ignored.push(words.join(" "));
    }

    /// Reads the options of mpirun, and returns how many words they are.
    fn mpirun(&mut self, words: &[String]) -> Result<usize, String> {
        let mut at = 0;
        while let Some(option) = words.get(at).filter(|word| word.starts_with('-')) {
            if option == "--" {
                return Ok(at + 1);
            }
            let name = option.trim_start_matches('-');
            let length = if MPIRUN_FLAGS.contains(&name) {
                1
            } else if MPIRUN_VALUES.contains(&name) || MPIRUN_PROCESSES.contains(&name) {
                2
            } else if MPIRUN_PAIRS.contains(&name) {
                3
            } else {
                return Err(format!(
                    "`{option}` is an option of mpirun that Longshore does not know: leave it out"
                ));
            };
            let all = words.get(at..at + length).ok_or_else(|| missing(option))?;
            if MPIRUN_PROCESSES.contains(&name) {
                let number = all[1].parse().ok().filter(|number| *number > 0);
                let number = number.ok_or_else(|| format!("`{option} {}` is no number", all[1]))?;
                self.processes.get_or_insert(number);
            } else {
                self.ignore(all);
            }
            at += length;
        }
        Ok(at)
    }

    /// Reads the options of dcp, and returns how many words they are.
    fn dcp(&mut self, words: &[String]) -> Result<usize, String> {
        let mut at = 0;
        while let Some(word) = words.get(at).filter(|word| word.starts_with('-') && *word != "-") {
            if word == "--" {
                return Ok(at + 1);
            }
            let (option, attached) = match word.split_once('=') {
                Some((option, value)) if option.starts_with("--") => {
                    (option, Some(value.to_owned()))
                }
                _ => (word.as_str(), None),
            };
            let used = std::cell::Cell::new(1);
            let value = || match &attached {
                Some(value) => Ok(value.clone()),
                None => {
                    used.set(2);
                    words.get(at + 1).cloned().ok_or_else(|| missing(option))
                }
            };
            match option {
                "-p" | "--preserve" => self.preserve = true,
                "-X" | "--xattrs" => {
                    let policy = xattrs(&value()?)?;
                    self.xattrs.get_or_insert(policy);
                }
                "--uid" => only(option, &value()?, "$UID")?,
                "--gid" => only(option, &value()?, "$GID")?,
                // Longshore does this anyway.
                "-S" | "--sparse" | "-P" | "--no-dereference" => {}
                "-b" | "--blocksize" | "--bufsize" | "-k" | "--chunksize" | "--progress" => {
                    let value = value()?;
                    self.ignore(&[option.to_owned(), value]);
                }
                "-v" | "--verbose" | "-q" | "--quiet" | "-s" | "--direct" | "--open-noatime" => {
                    self.ignore(&[option.to_owned()]);
                }
                _ => {
                    return Err(format!(
                        "`{option}` is an option of dcp that Longshore does not have: leave it out"
                    ));
                }
            }
            at += used.get();
        }
        Ok(at)
    }
}

fn missing(option: &str) -> String {
    format!("`{option}` lacks its value")
}

/// Whose the copy is says the movement, not the command.
fn only(option: &str, value: &str, variable: &str) -> Result<(), String> {
    match value == variable {
        true => Ok(()),
        false => Err(format!("`{option} {value}`: only `{option} {variable}` can be given")),
    }
}

/// dcp's policies by the names that `longshore copy` has for them. Attributes of Lustre are never copied.
fn xattrs(policy: &str) -> Result<&'static str, String> {
    match policy {
        "none" => Ok("none"),
        "all" => Ok("all"),
        "non-lustre" | "libattr" => Ok("auto"),
        _ => Err(format!("`--xattrs {policy}`: none, all, non-lustre or libattr can be given")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: &str = "ulimit -n 2048 && mpirun --allow-run-as-root --hostfile $HOSTFILE dcp \
                           --progress 1 --uid $UID --gid $GID $SRC $DEST";

    fn profile(command: &str) -> NnfDataMovementProfileData {
        NnfDataMovementProfileData {
            command: command.to_owned(),
            slots: 8,
            ..NnfDataMovementProfileData::default()
        }
    }

    fn copy_options(request: &Request) -> String {
        let Task::Copy(options) = &request.task else { panic!("{request:?}") };
        options.join(" ")
    }

    #[test]
    fn the_default_command_is_taken_over_and_what_is_left_out_is_named() {
        let request = request(&profile(DEFAULT), &UserConfig::default()).unwrap();
        assert_eq!(copy_options(&request), "--preserve=mode,xattr --threads=8");
        let ignored =
            ["ulimit -n 2048", "--allow-run-as-root", "--hostfile $HOSTFILE", "--progress 1"];
        assert_eq!(request.ignored, ignored);
        assert_eq!(request.ignored_of_user, [""; 0]);
    }

    #[test]
    fn the_number_of_processes_becomes_the_number_of_threads() {
        let threads = |of_profile: (i64, i64), slots: Option<i64>, max_slots: Option<i64>| {
            let mut profile = profile(DEFAULT);
            (profile.slots, profile.max_slots) = of_profile;
            let user = UserConfig { slots, max_slots, ..UserConfig::default() };
            let request = request(&profile, &user).unwrap();
            copy_options(&request).split_once("--threads=").map(|(_, count)| count.to_owned())
        };
        assert_eq!(threads((8, 0), Some(17), None).as_deref(), Some("17"));
        assert_eq!(threads((8, 0), Some(0), None), None);
        assert_eq!(threads((8, 0), None, None).as_deref(), Some("8"));
        assert_eq!(threads((8, 0), Some(-3), Some(-3)).as_deref(), Some("8"));
        assert_eq!(threads((8, 4), None, None).as_deref(), Some("4"));
        assert_eq!(threads((8, 4), None, Some(0)).as_deref(), Some("8"));
        assert_eq!(threads((0, 0), None, Some(3)).as_deref(), Some("3"));
        assert_eq!(threads((0, 0), None, None), None);
    }

    #[test]
    fn options_of_the_user_are_mapped_or_named() {
        let user = UserConfig {
            dcp_options: Some("--xattrs none -p --chunksize 64MB".to_owned()),
            mpirun_options: Some("--map-by node -np 3 --mca a b".to_owned()),
            ..UserConfig::default()
        };
        let request = request(&profile(DEFAULT), &user).unwrap();
        assert_eq!(
            copy_options(&request),
            "--preserve=mode,ownership,timestamps,xattr,acl --xattrs=none --threads=3"
        );
        assert_eq!(request.ignored_of_user, ["--map-by node", "--mca a b", "--chunksize 64MB"]);
    }

    #[test]
    fn a_profile_may_have_our_own_command_or_none() {
        let user = UserConfig::default();
        let ours = request(&profile("longshore copy --verify $SRC $DEST"), &user).unwrap();
        assert_eq!(copy_options(&ours), "--verify");
        let given = UserConfig {
            dcp_options: Some(" -p ".to_owned()),
            slots: Some(3),
            ..UserConfig::default()
        };
        let ours = request(&profile("longshore copy $SRC $DEST"), &given).unwrap();
        assert_eq!(ours.ignored_of_user, ["-p", "slots 3"]);
        for nothing in ["true", "/bin/true", "ulimit -n 2048 && true", "time true"] {
            assert_eq!(
                request(&profile(nothing), &user).unwrap().task,
                Task::PrepareOnly,
                "{nothing}"
            );
        }
        let dry = UserConfig { dryrun: Some(true), ..user };
        assert_eq!(request(&profile("sleep 5; rm"), &dry).unwrap().task, Task::PrepareOnly);
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (command, named) in [
            ("sleep 25", "`sleep` cannot be run"),
            ("false", "`false` cannot be run"),
            ("", "`an empty command`"),
            ("sleep 8; echo after", "`;` cannot be run"),
            ("echo a && dcp $SRC $DEST", "`echo` cannot be run"),
            ("mpirun --frob dcp $SRC $DEST", "`--frob` is an option of mpirun"),
            ("mpirun -np x dcp $SRC $DEST", "`-np x` is no number"),
            ("mpirun -np", "`-np` lacks its value"),
            ("mpirun cp $SRC $DEST", "`cp` cannot be run"),
            ("dcp -L $SRC $DEST", "`-L` is an option of dcp"),
            ("dcp --uid 0 $SRC $DEST", "only `--uid $UID`"),
            ("dcp --xattrs some $SRC $DEST", "`--xattrs some`"),
            ("dcp $SRC /etc", "`$SRC /etc` where"),
            ("dcp", "without `$SRC $DEST`"),
            ("dcp $SRC $DEST $(id)", "`$(` cannot be run"),
            ("longshore verify $SRC $DEST", "`longshore` without `copy`"),
            (
                "longshore copy --frob $SRC $DEST",
                "options of the copy: unexpected argument '--frob'",
            ),
            ("longshore copy --journal none $SRC $DEST", "--journal cannot be chosen here"),
        ] {
            let refused = request(&profile(command), &UserConfig::default()).unwrap_err();
            assert!(refused.contains(named), "{command}: {refused}");
        }
        for (dcp, mpirun, named) in [
            ("--input list", "", "userConfig.dcpOptions: `--input` is an option"),
            ("/etc/passwd", "", "userConfig.dcpOptions: `/etc/passwd` is no option"),
            ("-p; id", "", "userConfig.dcpOptions: `;` cannot be part"),
            ("", "--launch-agent x", "userConfig.mpirunOptions: `--launch-agent`"),
            ("", "-x A && id", "userConfig.mpirunOptions: `&&` cannot be part"),
        ] {
            let user = UserConfig {
                dcp_options: Some(dcp.to_owned()),
                mpirun_options: Some(mpirun.to_owned()),
                ..UserConfig::default()
            };
            let refused = request(&profile(DEFAULT), &user).unwrap_err();
            assert!(refused.contains(named), "{dcp} {mpirun}: {refused}");
        }
    }

    #[test]
    fn a_profile_is_judged_as_a_movement_that_uses_it_would_be() {
        let judged = validate(&profile("sleep 5"));
        let refused = request(&profile("sleep 5"), &UserConfig::default()).unwrap_err();
        assert_eq!(judged.refusals, [format!("data.command: {refused}")]);
        let mut contradictory = profile("dcp $SRC $DEST");
        contradictory.max_slots = 4;
        let judged = validate(&contradictory);
        assert_eq!(judged.refusals, [""; 0], "the smaller one counts");
        assert_eq!(judged.warnings, ["slots (8) is more than maxSlots (4), which counts"]);
        let judged = validate(&profile("dcp -v $SRC $DEST"));
        assert_eq!(judged.warnings, ["options without meaning here: -v"]);
    }
}
