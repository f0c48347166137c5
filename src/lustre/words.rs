//! Layouts back into the words of `lfs setstripe`, in one way of writing each. The reverse of `spec`.

use std::fmt::Write;

use super::fields::{Extent, Flags, Pattern, Pool, Start};
use super::layout::{Component, Composite, Form, Layout, Plain};
use super::size;

impl Layout {
    /// The words that ask for this layout ([`Layout::template`]). `lfs setstripe` has no words for
    /// foreign data, parity and compression: such components and marks are left out.
    #[must_use]
    pub fn to_spec(&self) -> String {
        let mut out = Out::default();
        match self.template() {
            Self::Plain(plain) => out.plain(&plain),
            Self::Composite(composite) => out.composite(&composite),
            Self::Foreign(_) => {}
        }
        out.words.join(" ")
    }
}

/// The words so far, and what a component would inherit.
#[derive(Default)]
struct Out {
    words: Vec<String>,
    size: u32,
    pool: Option<Pool>,
}

impl Out {
    fn composite(&mut self, composite: &Composite) {
        let mirrors = composite.mirrors().filter(|mirror| !mirror.iter().any(Component::is_parity));
        let several = composite.further_mirrors > 0;
        for mirror in mirrors {
            if several {
                self.words.push("-N".to_owned());
                self.flags("--flags", common(mirror));
            }
            let whole = several && mirror.len() == 1 && mirror[0].extent == Extent::WHOLE;
            for (at, component) in mirror.iter().enumerate() {
                let Some(plain) = component.striped() else { continue };
                if component.flags.has(Flags::EXTENSION) {
                    continue; // said with the component before it
                }
                let space = mirror.get(at + 1).filter(|next| next.flags.has(Flags::EXTENSION));
                if !whole {
                    let end = space.unwrap_or(component).extent.end;
                    let end = if end == Extent::EOF { "-1".to_owned() } else { size::text(end) };
                    self.words.push(format!("-E {end}"));
                }
                if let Some(bytes) = space.and_then(Component::extension_bytes) {
                    self.words.push(format!("-z {}", size::text(bytes)));
                }
                self.plain(plain);
                let shared = if several { common(mirror) } else { Flags::default() };
                self.flags("--component-flags", Flags(own(component).0 & !shared.0));
            }
        }
    }

    fn plain(&mut self, plain: &Plain) {
        if plain.pattern.is_mdt() {
            self.words.push("-L mdt".to_owned());
            self.size = plain.stripe_size;
            return;
        }
        let overstriped = plain.pattern == Pattern::OVERSTRIPED;
        self.words.push(format!("-{} {}", if overstriped { 'C' } else { 'c' }, plain.count));
        if plain.stripe_size != self.size {
            self.words.push(format!("-S {}", size::text(plain.stripe_size.into())));
            self.size = plain.stripe_size;
        }
        let pool = plain.pool();
        if pool != self.pool {
            let name = pool.map_or("inherit".to_owned(), |pool| pool.to_string());
            self.words.push(format!("-p {name}"));
            self.pool = pool;
        }
        let listed =
            matches!(plain.form, Form::Specific(_)).then(|| plain.objects.first()).flatten();
        match (plain.start, listed) {
            (Start::Ost(ost), Some(first)) if u32::from(ost) == first.ost => {}
            (Start::Ost(ost), _) => self.words.push(format!("-i {ost}")),
            (Start::Any | Start::Generation(_), _) => {}
        }
        if listed.is_some() {
            let osts = plain.objects.iter().map(|object| object.ost);
            self.words.push(format!("-o {}", ranges(osts)));
        }
    }

    fn flags(&mut self, word: &str, flags: Flags) {
        let mut names = Vec::new();
        if flags.has(Flags::PREFER) {
            names.push("prefer");
        } else if flags.has(Flags::PREFER_READ) {
            names.push("prefrd");
        } else if flags.has(Flags::PREFER_WRITE) {
            names.push("prefwr");
        }
        if flags.has(Flags::NO_SYNC) {
            names.push("nosync");
        }
        if !names.is_empty() {
            self.words.push(format!("{word}={}", names.join(",")));
        }
    }
}

/// The marks of a component that words can say.
fn own(component: &Component) -> Flags {
    component.flags.only(Flags::PREFER.and(Flags::NO_SYNC))
}

/// Those that all components of a mirror have.
fn common(mirror: &[Component]) -> Flags {
    mirror.iter().fold(Flags(u32::MAX), |flags, component| flags.only(own(component)))
}

/// Numbers with commas, those that go up by one as a range: `1,4-7`.
pub(super) fn ranges(numbers: impl IntoIterator<Item = u32>) -> String {
    let mut out = String::new();
    let mut numbers = numbers.into_iter().peekable();
    while let Some(first) = numbers.next() {
        let mut last = first;
        while let Some(next) = numbers.next_if(|next| last.checked_add(1) == Some(*next)) {
            last = next;
        }
        let comma = if out.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        let _ = match last - first {
            0 => write!(out, "{comma}{first}"),
            1 => write!(out, "{comma}{first},{last}"),
            _ => write!(out, "{comma}{first}-{last}"),
        };
    }
    out
}
