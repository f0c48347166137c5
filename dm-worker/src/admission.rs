//! Which of the shards that wait is next: users take turns, and each user's shards come in their order. It
//! starts nothing.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Shards that wait, by the uid of the object, each of a user.
#[derive(Debug)]
pub(crate) struct Admission<S> {
    /// Users with waiting shards, whose turn comes first in front.
    turns: VecDeque<u32>,
    /// What waits for each of them, by arrival.
    waiting: HashMap<u32, BTreeMap<u64, String>>,
    shards: HashMap<String, (u32, u64, S)>,
    arrivals: u64,
}

impl<S> Default for Admission<S> {
    fn default() -> Self {
        Self {
            turns: VecDeque::new(),
            waiting: HashMap::new(),
            shards: HashMap::new(),
            arrivals: 0,
        }
    }
}

impl<S> Admission<S> {
    /// Adds a shard, or replaces what is known of one that waits already.
    pub(crate) fn insert(&mut self, uid: &str, user: u32, shard: S) {
        if let Some((_, _, known)) = self.shards.get_mut(uid) {
            *known = shard; // whose it is cannot change
            return;
        }
        self.arrivals += 1;
        self.shards.insert(uid.to_owned(), (user, self.arrivals, shard));
        let own = self.waiting.entry(user).or_default();
        if own.is_empty() {
            self.turns.push_back(user);
        }
        own.insert(self.arrivals, uid.to_owned());
    }

    /// Takes a shard out, wherever it stands.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<S> {
        let (user, arrival, shard) = self.shards.remove(uid)?;
        if let Some(own) = self.waiting.get_mut(&user) {
            own.remove(&arrival);
            if own.is_empty() {
                self.waiting.remove(&user);
                self.turns.retain(|other| *other != user);
            }
        }
        Some(shard)
    }

    /// Takes the next one.
    pub(crate) fn next(&mut self) -> Option<S> {
        let user = *self.turns.front()?;
        self.turns.rotate_left(1);
        let uid = self.waiting.get(&user)?.values().next()?.clone();
        self.remove(&uid)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.shards.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(admission: &mut Admission<&'static str>) -> Vec<&'static str> {
        std::iter::from_fn(|| admission.next()).collect()
    }

    #[test]
    fn users_take_turns() {
        let mut admission = Admission::default();
        for name in ["a1", "a2", "a3", "a4"] {
            admission.insert(name, 1, name);
        }
        assert_eq!(admission.next(), Some("a1"));
        for (name, user) in [("b1", 2), ("b2", 2), ("c1", 3)] {
            admission.insert(name, user, name);
        }
        assert_eq!(admission.len(), 6);
        assert_eq!(all(&mut admission), ["a2", "b1", "c1", "a3", "b2", "a4"]);
        assert_eq!(admission.len(), 0);
        assert!(admission.turns.is_empty() && admission.waiting.is_empty());
    }

    #[test]
    fn who_waits_keeps_the_place_and_who_leaves_takes_nobodys() {
        let mut admission = Admission::default();
        for (name, user) in [("a1", 1), ("a2", 1), ("b1", 2)] {
            admission.insert(name, user, name);
        }
        admission.insert("a1", 1, "a1 newer");
        assert_eq!(admission.remove("b1"), Some("b1"));
        assert_eq!(admission.remove("b1"), None);
        assert_eq!(all(&mut admission), ["a1 newer", "a2"]);
    }
}
