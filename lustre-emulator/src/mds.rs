//! What a metadata server grants: it fills in defaults, lowers what is too much, chooses OSTs and makes
//! objects. Which requests it refuses is in `rules`.

use std::sync::{Mutex, MutexGuard, PoisonError};

use fuser::Errno;

use crate::layout::{
    ANY, Component, EOF, EXTENSION, INIT, Layout, OVERSTRIPED, Object, RAID0, SPECIFIC, V1, V3,
};
use crate::rules::{Known, check};
use crate::settings::Misbehaviour;

/// Most stripes of one component (`LOV_MAX_STRIPE_COUNT`).
const MOST_STRIPES: usize = 2000;

/// Counts of this value and above mean "all OSTs", so many times over.
const ALL_OF_THEM: u16 = 0xffe0;

/// What a file gets where its request is silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Defaults {
    pub(crate) stripe_count: u16,
    pub(crate) stripe_size: u32,
    pub(crate) first: u16,
    pub(crate) pool: [u8; 16],
}

impl Defaults {
    /// With what a plain default of a directory says.
    pub(crate) fn over(mut self, default: &Component) -> Self {
        if default.stripe_count != 0 {
            self.stripe_count = default.stripe_count;
        }
        if default.stripe_size != 0 {
            self.stripe_size = default.stripe_size;
        }
        if default.first != ANY {
            self.first = default.first;
        }
        if default.pool != [0; 16] {
            self.pool = default.pool;
        }
        self
    }

    /// The request that asks for nothing.
    pub(crate) fn request(&self) -> Layout {
        let component = Component {
            id: 0,
            flags: 0,
            start: 0,
            end: EOF,
            magic: if self.pool == [0; 16] { V1 } else { V3 },
            pattern: RAID0,
            stripe_size: self.stripe_size,
            stripe_count: self.stripe_count,
            first: self.first,
            pool: self.pool,
            objects: Vec::new(),
            generation: 0,
        };
        Layout { components: vec![component], ..Layout::default() }
    }
}

/// The OSTs as the metadata server sees them.
pub(crate) struct View {
    pub(crate) active: Vec<u32>,
    pub(crate) osts: usize,
    pub(crate) pools: Vec<(String, Vec<u32>)>,
    pub(crate) misbehave: Misbehaviour,
}

impl View {
    fn pool(&self, name: &str) -> Option<Vec<u32>> {
        let pool = self.pools.iter().find(|(known, _)| known == name);
        pool.map(|(_, osts)| osts.clone()).filter(|_| !name.is_empty())
    }

    pub(crate) fn check(&self, request: &Layout) -> Result<(), Errno> {
        check(
            request,
            &Known {
                osts: self.osts,
                active: &|ost| self.active.contains(&ost),
                pool: &|name| self.pool(name),
            },
        )
    }
}

#[derive(Debug, Default)]
struct Counters {
    /// Where the next file begins.
    next: usize,
    /// The number of the last object of each OST.
    objects: Vec<u32>,
}

/// The part that gives out objects.
#[derive(Debug, Default)]
pub(crate) struct Mds {
    counters: Mutex<Counters>,
}

impl Mds {
    fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An object that exists already: its number is not given out again.
    pub(crate) fn seen(&self, object: Object) {
        let mut counters = self.counters();
        let ost = object.ost as usize;
        let wanted = counters.objects.len().max(ost + 1);
        counters.objects.resize(wanted, 0);
        counters.objects[ost] = counters.objects[ost].max(object.id);
    }

    /// The layout that a file gets on this request, which has been checked.
    pub(crate) fn grant(
        &self,
        mut layout: Layout,
        defaults: &Defaults,
        view: &View,
    ) -> Result<Layout, Errno> {
        if layout.foreign.is_some() {
            return Ok(layout);
        }
        if let Some(limit) = view.misbehave.dom_limit {
            cut_dom(&mut layout, limit)?;
        }
        layout.generation = u32::from(layout.composite);
        layout.flr = u16::from(layout.mirrors > 0);
        let mut pool = defaults.pool;
        let mut mirror: u32 = 0;
        let mirrored = layout.mirrors > 0;
        for (number, component) in (1..).zip(&mut layout.components) {
            if component.start == 0 && (number == 1 || component.flags & EXTENSION == 0) {
                mirror += 1;
            }
            if layout.composite {
                component.id = if mirrored { mirror << 16 | number } else { number };
            }
            fill(component, defaults, &mut pool);
            // A first component of no length covers nothing; its extension makes it.
            if component.start == 0 && component.end > 0 && component.flags & EXTENSION == 0 {
                self.instantiate(component, view)?;
            }
        }
        Ok(layout)
    }

    /// Makes the objects of a component.
    pub(crate) fn instantiate(&self, component: &mut Component, view: &View) -> Result<(), Errno> {
        component.flags |= INIT;
        if component.is_dom() {
            return Ok(());
        }
        let named: Vec<u32> = match component.magic {
            SPECIFIC => component.objects.drain(..).map(|object| object.ost).collect(),
            _ => Vec::new(),
        };
        component.magic = if component.pool == [0; 16] { V1 } else { V3 };
        let osts = if named.is_empty() { self.choose(component, view)? } else { named };
        let mut counters = self.counters();
        let known = counters.objects.len().max(view.osts);
        counters.objects.resize(known, 0);
        component.objects = osts
            .into_iter()
            .map(|ost| {
                let id = &mut counters.objects[ost as usize];
                *id += 1;
                Object { ost, id: *id }
            })
            .collect();
        component.stripe_count = u16::try_from(component.objects.len()).unwrap_or(u16::MAX);
        Ok(())
    }

    /// The OSTs of a component, from where the last file ended or from where was asked.
    fn choose(&self, component: &Component, view: &View) -> Result<Vec<u32>, Errno> {
        let pool = view.pool(&component.pool_name()).filter(|_| !view.misbehave.ignore_pools);
        let usable = |ost: &&u32| pool.as_ref().is_none_or(|pool| pool.contains(ost));
        let usable: Vec<u32> = view.active.iter().filter(usable).copied().collect();
        if usable.is_empty() {
            return Err(Errno::ENOSPC);
        }
        let over = component.pattern & OVERSTRIPED != 0;
        let mut count = match component.stripe_count {
            ANY => usable.len(),
            all if all >= ALL_OF_THEM => usable.len() * usize::from(ANY - all + 1),
            count => usize::from(count),
        };
        if !over {
            count = count.min(usable.len());
        }
        if let Some(most) = view.misbehave.most_stripes {
            count = count.min(usize::from(most));
        }
        let count = count.clamp(1, MOST_STRIPES);
        let mut counters = self.counters();
        let first = match component.first {
            ANY => counters.next,
            first => usable.iter().position(|ost| *ost == u32::from(first)).unwrap_or(0),
        };
        if component.first == ANY {
            counters.next = counters.next.wrapping_add(count);
        }
        Ok((0..count).map(|at| usable[first.wrapping_add(at) % usable.len()]).collect())
    }
}

/// Fills in what the request has left open. `pool` is that of the component before.
fn fill(component: &mut Component, defaults: &Defaults, pool: &mut [u8; 16]) {
    if component.is_dom() {
        component.stripe_size = u32::try_from(component.end).unwrap_or(component.stripe_size);
        component.stripe_count = 0;
        return;
    }
    if component.stripe_size == 0 {
        component.stripe_size = defaults.stripe_size;
    }
    if component.stripe_count == 0 && component.flags & EXTENSION == 0 {
        component.stripe_count = defaults.stripe_count;
    }
    match component.pool_name().as_str() {
        "" => component.pool = *pool,
        "ignore" => component.pool = [0; 16],
        "inherit" => component.pool = defaults.pool,
        _ => {}
    }
    *pool = component.pool;
    if component.magic != SPECIFIC {
        component.magic = if component.pool == [0; 16] { V1 } else { V3 };
    }
}

/// Shrinks a DoM component to the limit, or drops it. `EFBIG` when nothing would be left.
fn cut_dom(layout: &mut Layout, limit: u64) -> Result<(), Errno> {
    let Some(first) = layout.components.first_mut() else { return Ok(()) };
    if !first.is_dom() || first.end <= limit {
        return Ok(());
    }
    if limit > 0 {
        first.end = limit;
        first.stripe_size = u32::try_from(limit).unwrap_or(u32::MAX);
        if let Some(second) = layout.components.get_mut(1) {
            second.start = limit;
        }
        return Ok(());
    }
    layout.components.remove(0);
    layout.components.first_mut().map(|second| second.start = 0).ok_or(Errno::EFBIG)
}
