//! Layouts in the words of `lfs setstripe`: `-c 8 -S 4M`, `-E 256M -c 1 -E -1 -c -1`, `-N2 ...`. The
//! words become a layout, or an error that says what to write instead; what the servers would refuse
//! is refused here. Nothing is set. The reverse is in `words`.

use thiserror::Error;

use super::fields::{Count, Extent, Flags, Pattern, Pool, Start};
use super::layout::{Component, Composite, Form, Layout, MAX_BYTES, Object, Plain};
use super::{size, values};

/// Most mirrors of a file (`LUSTRE_MIRROR_COUNT_MAX`).
const MAX_MIRRORS: usize = 16;
/// Longest component on the metadata server that `lfs` lets anybody ask for, in bytes.
const MAX_MDT_BYTES: u64 = 1 << 30;

/// Why words are no layout.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{word}: {problem}")]
pub struct SpecError {
    /// The word, as given.
    pub word: String,
    /// What is wrong with it, and what to write instead.
    pub problem: String,
}

pub(super) fn wrong<T>(word: &str, problem: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError { word: word.to_owned(), problem: problem.into() })
}

impl Layout {
    /// Reads the words of `lfs setstripe`, separated by blanks. As there, a component takes stripe
    /// count, stripe size and pool from the one before it unless its own are given.
    ///
    /// # Errors
    /// [`SpecError`] for words that are no layout of a new file, and for layouts that no server takes.
    pub fn from_spec(spec: &str) -> Result<Self, SpecError> {
        let mut build = Build::default();
        let mut words = spec.split_whitespace();
        while let Some(word) = words.next() {
            let (option, attached) = split(word)?;
            match option {
                Word::Mirror => build.mirror(word, attached)?,
                option => {
                    let Some(value) = attached.or_else(|| words.next()) else {
                        return wrong(word, "a value is missing behind it");
                    };
                    let whole = if attached.is_some() {
                        word.to_owned()
                    } else {
                        format!("{word} {value}")
                    };
                    build.option(option, &whole, value)?;
                }
            }
        }
        let layout = build.layout(spec)?;
        if layout.compose().len() > MAX_BYTES {
            return wrong(spec, "too long for a layout (64K); ask for fewer components or OSTs");
        }
        Ok(layout)
    }
}

/// The options, whichever way they were written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Count,
    Overstripe,
    Size,
    Index,
    Osts,
    Pool,
    End,
    Pattern,
    Extension,
    Mirror,
    MirrorFlags,
    ComponentFlags,
}

const OPTIONS: [(Word, Option<char>, &[&str]); 12] = [
    (Word::Count, Some('c'), &["stripe-count", "stripe_count"]),
    (Word::Overstripe, Some('C'), &["overstripe-count", "overstripe_count"]),
    (Word::Size, Some('S'), &["stripe-size", "stripe_size"]),
    (Word::Index, Some('i'), &["stripe-index", "stripe_index"]),
    (Word::Osts, Some('o'), &["ost", "ost-list", "ost_list"]),
    (Word::Pool, Some('p'), &["pool"]),
    (Word::End, Some('E'), &["component-end", "comp-end"]),
    (Word::Pattern, Some('L'), &["layout"]),
    (Word::Extension, Some('z'), &["extension-size", "ext-size"]),
    (Word::Mirror, Some('N'), &["mirror-count"]),
    (Word::MirrorFlags, None, &["flags"]),
    (Word::ComponentFlags, None, &["component-flags", "comp-flags"]),
];

/// The option of a word, and the value that is part of the word.
fn split(word: &str) -> Result<(Word, Option<&str>), SpecError> {
    let known = if let Some(long) = word.strip_prefix("--") {
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long, None),
        };
        OPTIONS.iter().find(|(_, _, names)| names.contains(&name)).map(|found| (found.0, value))
    } else {
        let mut letters = word.strip_prefix('-').unwrap_or("").chars();
        let letter = letters.next();
        let value = Some(letters.as_str()).filter(|value| !value.is_empty());
        OPTIONS
            .iter()
            .find(|(_, short, _)| letter.is_some() && *short == letter)
            .map(|found| (found.0, value))
    };
    match known {
        Some(found) => Ok(found),
        None => wrong(
            word,
            "no word of a layout; write options of lfs setstripe such as -c 4, -S 4M, -p POOL, \
             -E 256M -c 1 -E -1 -c -1",
        ),
    }
}

/// What was said of the component that is being read, or inherited.
#[derive(Clone, Default)]
struct Part {
    end: Option<u64>,
    size: u32,
    count: Option<Count>,
    overstriped: bool,
    mdt: bool,
    start: Option<u16>,
    osts: Vec<u16>,
    pool: Option<Pool>,
    extension: Option<u64>,
    flags: Flags,
    /// The first word that said a size, count or pool for this component, which DoM does not take.
    said: Option<String>,
    /// Whether the count was said, and not inherited.
    count_said: bool,
    /// Whether anything was said.
    any: bool,
}

impl Part {
    /// The next component's beginning: as `lfs` inherits.
    fn inherited(&self) -> Self {
        let count = self.count.filter(|_| !self.mdt);
        Self { size: self.size, count, pool: self.pool, ..Self::default() }
    }
}

#[derive(Default)]
struct Build {
    part: Part,
    /// Complete components of the mirror that is being read.
    components: Vec<Component>,
    /// Complete mirrors, and how many of each.
    mirrors: Vec<Vec<Component>>,
    /// How many mirrors of the present kind, once `-N` was read.
    copies: Option<usize>,
    mirror_flags: Flags,
}

impl Build {
    fn option(&mut self, option: Word, word: &str, value: &str) -> Result<(), SpecError> {
        if option == Word::End {
            return self.next_component(word, value);
        }
        let part = &mut self.part;
        // Flags stand before everything else of their mirror.
        part.any |= option != Word::MirrorFlags;
        if matches!(option, Word::Count | Word::Overstripe | Word::Size | Word::Pool) {
            part.said.get_or_insert_with(|| word.to_owned());
        }
        match option {
            Word::Count => {
                part.count = Some(values::count(word, value, 1)?);
                (part.overstriped, part.count_said) = (false, true);
            }
            Word::Overstripe => {
                part.count = Some(values::count(word, value, Count::MAX_PER_OST)?);
                (part.overstriped, part.count_said) = (true, true);
            }
            Word::Size => part.size = values::stripe_size(word, value)?,
            Word::Index => part.start = values::index(word, value)?,
            Word::Osts => values::osts(word, value, &mut part.osts)?,
            Word::Pool => part.pool = values::pool(word, value)?,
            Word::Pattern => match value {
                "mdt" => part.mdt = true,
                "raid0" => part.mdt = false,
                _ => {
                    return wrong(
                        word,
                        "unknown; write -L raid0 or, for the first component, -L mdt",
                    );
                }
            },
            Word::Extension => part.extension = Some(values::extension(word, value)?),
            Word::MirrorFlags if self.copies.is_none() => {
                return wrong(word, "flags belong to a mirror; write -N before it");
            }
            Word::MirrorFlags => self.mirror_flags = values::flags(word, value)?,
            Word::ComponentFlags => part.flags = values::flags(word, value)?,
            Word::End | Word::Mirror => unreachable!("handled by the caller and above"),
        }
        Ok(())
    }

    /// `-E`: the component before it is complete.
    fn next_component(&mut self, word: &str, value: &str) -> Result<(), SpecError> {
        if self.part.end.is_some() {
            self.finish_component(word)?;
        } else if self.part.any {
            return wrong(word, "-E stands before the options of its component; write it first");
        }
        self.part.end = Some(values::end(word, value)?);
        self.part.any = true;
        Ok(())
    }

    /// `-N`: the mirror before it is complete.
    fn mirror(&mut self, word: &str, value: Option<&str>) -> Result<(), SpecError> {
        if self.copies.is_some() {
            self.finish_mirror(word)?;
        } else if self.part.any {
            return wrong(word, "options stand behind the -N of their mirror; write -N first");
        }
        let copies = value.map_or(Ok(1), str::parse).ok();
        let Some(copies) = copies.filter(|copies| (1..=MAX_MIRRORS).contains(copies)) else {
            return wrong(word, "there are 1 to 16 mirrors; write -N2 (without a blank)");
        };
        self.copies = Some(copies);
        Ok(())
    }

    fn finish_mirror(&mut self, word: &str) -> Result<(), SpecError> {
        self.part.end.get_or_insert(Extent::EOF);
        self.finish_component(word)?;
        let mut mirror = std::mem::take(&mut self.components);
        let flags = std::mem::take(&mut self.mirror_flags);
        mirror.iter_mut().for_each(|component| component.flags = component.flags.and(flags));
        let copies = self.copies.unwrap_or(1);
        if self.mirrors.len() + copies > MAX_MIRRORS {
            return wrong(word, "a file has at most 16 mirrors; ask for fewer");
        }
        self.mirrors.extend(std::iter::repeat_n(mirror, copies));
        Ok(())
    }

    /// Turns what was read into a component, or two with extension space.
    fn finish_component(&mut self, word: &str) -> Result<(), SpecError> {
        let next = self.part.inherited();
        let mut part = std::mem::replace(&mut self.part, next);
        let start = self.components.last().map_or(0, |before| before.extent.end);
        let end = part.end.expect("callers have set it");
        if end <= start {
            let text = if start == Extent::EOF { "EOF".to_owned() } else { size::text(start) };
            return wrong(word, format!("a component must end behind the one before it ({text})"));
        }
        if part.mdt {
            if start != 0 || !self.mirrors.is_empty() {
                return wrong(word, "only the first component can be on the MDT; drop -L mdt");
            }
            if end > MAX_MDT_BYTES {
                return wrong(word, "a component on the MDT has at most 1G; write -E 1M -L mdt");
            }
            // Its stripe is all of it; that is also what the next component inherits.
            self.part.size = u32::try_from(end).expect("at most 1 GiB");
            part.size = self.part.size;
        }
        let plain = plain(&part, word)?;
        if part.size != 0 && end != Extent::EOF && !end.is_multiple_of(part.size.into()) {
            let problem = format!(
                "a component must end at a multiple of its stripe size ({}); write another -E or -S",
                size::text(part.size.into())
            );
            return wrong(word, problem);
        }
        let extent = Extent { start, end };
        let component = Component { flags: part.flags, ..Component::new(extent, plain) };
        match part.extension {
            None => self.components.push(component),
            Some(bytes) => self.components.extend(with_extension(component, bytes, word)?),
        }
        Ok(())
    }

    fn layout(mut self, spec: &str) -> Result<Layout, SpecError> {
        if self.copies.is_some() {
            self.finish_mirror(spec)?;
            let further = self.mirrors.len() - 1;
            return Ok(Layout::Composite(Composite {
                further_mirrors: u16::try_from(further).expect("at most 16"),
                components: self.mirrors.into_iter().flatten().collect(),
                ..Composite::default()
            }));
        }
        if self.part.end.is_some() {
            self.finish_component(spec)?;
            let components = self.components;
            return Ok(Layout::Composite(Composite { components, ..Composite::default() }));
        }
        if !self.part.any {
            return wrong("an empty layout", "write options of lfs setstripe such as -c 4 -S 4M");
        }
        if self.part.mdt {
            return wrong(spec, "data on the MDT needs an end; write -E 1M -L mdt -E -1 -c 1");
        }
        if self.part.extension.is_some() {
            return wrong(spec, "-z belongs to a component; write -E before it");
        }
        if self.part.flags != Flags::default() {
            return wrong(spec, "--component-flags belongs to a component; write -E before it");
        }
        plain(&self.part, spec).map(Layout::Plain)
    }
}

/// A component that grows, and the space into which it does. The first one of a file begins with one
/// extension's size, all others with nothing, as `lfs` asks for them.
fn with_extension(
    component: Component,
    bytes: u64,
    word: &str,
) -> Result<[Component; 2], SpecError> {
    let Extent { start, end } = component.extent;
    let plain = component.striped().expect("components of words have stripes").clone();
    if plain.pattern.is_mdt() {
        return wrong(word, "a component on the MDT does not grow; drop -z");
    }
    if plain.stripe_size != 0 && !bytes.is_multiple_of(plain.stripe_size.into()) {
        return wrong(word, "an extension size is a multiple of the stripe size; write another -z");
    }
    let middle = if start == 0 { bytes } else { start };
    if middle >= end || bytes >= end - start {
        return wrong(word, "the extension size must be less than the component; write another -z");
    }
    let kib = u32::try_from(bytes / 1024).expect("checked where it was read");
    let space = Plain { stripe_size: kib, ..plain };
    let first = Component { extent: Extent { start, end: middle }, ..component };
    let flags = first.flags.and(Flags::EXTENSION);
    let second = Component { flags, ..Component::new(Extent { start: middle, end }, space) };
    Ok([first, second])
}

fn plain(part: &Part, word: &str) -> Result<Plain, SpecError> {
    let count = part.count.unwrap_or(Count::DEFAULT);
    if part.mdt {
        let refused = part.said.clone();
        let osts = (!part.osts.is_empty()).then(|| "-o".to_owned());
        if let Some(said) = refused.or(osts).or(part.start.map(|ost| format!("-i {ost}"))) {
            return wrong(&said, "a component on the MDT takes no other options; drop it");
        }
        return Ok(Plain { pattern: Pattern::MDT, ..Plain::new(Count::DEFAULT, part.size) });
    }
    if part.osts.is_empty() && !part.overstriped && (0xffe0..0xffff).contains(&count.0) {
        return wrong(
            word,
            "several stripes on each OST need -C in each component; write it again",
        );
    }
    let pattern = if part.overstriped { Pattern::OVERSTRIPED } else { Pattern::RAID0 };
    let start = part.start.map_or(Start::Any, Start::Ost);
    let mut plain = Plain { pattern, start, ..Plain::new(count, part.size) };
    plain.set_pool(part.pool);
    if let Some(first) = part.osts.first() {
        listed(&mut plain, part, *first, word)?;
    }
    Ok(plain)
}

/// A list of OSTs: as many stripes, and more than one on an OST only when it is listed twice.
fn listed(plain: &mut Plain, part: &Part, first: u16, word: &str) -> Result<(), SpecError> {
    let count = u16::try_from(part.osts.len()).expect("limited where they were read");
    if part.count_said && part.count != Some(Count(count)) {
        return wrong(word, format!("-o lists {count} OSTs; drop -c or write -c {count}"));
    }
    let start = part.start.unwrap_or(first);
    if !part.osts.contains(&start) {
        return wrong(word, format!("OST {start} of -i is not in the list of -o; add or drop it"));
    }
    let mut sorted = part.osts.clone();
    sorted.sort_unstable();
    sorted.dedup();
    let several = sorted.len() < part.osts.len() || part.overstriped;
    plain.form = Form::Specific(plain.pool().unwrap_or(Pool::NONE));
    plain.pattern = if several { Pattern::OVERSTRIPED } else { Pattern::RAID0 };
    (plain.count, plain.start) = (Count(count), Start::Ost(start));
    plain.objects = part.osts.iter().map(|ost| Object::on(u32::from(*ost))).collect();
    Ok(())
}

#[cfg(test)]
mod tests;
