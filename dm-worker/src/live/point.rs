//! The life of one mount point: what is wanted there is compared with what is there, and one thing is done
//! about it, again and again until nothing is wanted and nothing is there. Each point has a task of its
//! own, so that one that hangs keeps nobody waiting.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::board::{Board, State};
use super::child::{self, End};
use super::{hands, holders};

/// How often the kernel's table is read while all is well.
const LOOK: Duration = Duration::from_secs(1);

/// The pauses after failures: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How mounting is done.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// How long mounting or unmounting may take before it counts as hanging.
    pub(crate) limit: Duration,
    /// How long copies may go on that use what is to be unmounted.
    pub(crate) drain: Duration,
}

/// One point.
struct Life {
    board: Board,
    point: PathBuf,
    manner: Manner,
    changes: watch::Receiver<State>,
    /// As what it was mounted, once it was found to be there. It may go only then: what somebody else has
    /// mounted is left.
    mounted_as: Option<String>,
    /// What a helper was last told to mount there.
    tried: Option<String>,
    pause: Duration,
}

/// Lives until nothing is wanted there.
pub(super) async fn live(board: Board, point: PathBuf, manner: Manner) {
    let changes = board.subscribe();
    let pause = PAUSES.0;
    let mut life = Life { board, point, manner, changes, mounted_as: None, tried: None, pause };
    while life.step().await {}
    tracing::info!(point = %life.point.display(), "nothing is mounted there any more");
}

impl Life {
    /// Does one thing. Whether there is more to do.
    async fn step(&mut self) -> bool {
        self.changes.borrow_and_update();
        let wanted = self.board.wanted(&self.point);
        let there = hands::at(&self.point);
        let is = |source: &Option<String>| {
            let (Some(source), Some(mount)) = (source, &there) else { return false };
            hands::is(mount, self.board.kind(), source)
        };
        if self.mounted_as.is_none() && self.tried != wanted && is(&self.tried) {
            // A helper that was killed has mounted it all the same.
            self.mounted_as = self.tried.clone();
        }
        let as_wanted = is(&wanted);
        match (wanted, there) {
            (None, None) => return self.leave(),
            (None, Some(_)) if self.mounted_as.is_none() => return self.leave(),
            (Some(source), None) => self.mount(source).await,
            (Some(source), Some(mount)) if self.mounted_as.is_none() => {
                if as_wanted {
                    self.mount(source).await; // it is only looked at
                } else {
                    let text = format!("{} is mounted there", hands::describe(&mount));
                    self.fail(text).await;
                }
            }
            (Some(source), Some(_)) if as_wanted && self.mounted_as.as_ref() == Some(&source) => {
                self.board.open(&self.point, &source);
                self.pause = PAUSES.0;
                self.change_within(LOOK).await;
            }
            (_, Some(_)) => self.take_away().await,
        }
        true
    }

    /// Leaves the point as it was found. Whether there is more to do, since it is wanted again.
    fn leave(&self) -> bool {
        // It is about the directory alone: where something is mounted the kernel refuses.
        drop(fs::remove_dir(&self.point));
        !self.board.forget(&self.point)
    }

    async fn mount(&mut self, source: String) {
        self.board.close(&self.point);
        if self.mounted_as.take().is_some() {
            tracing::error!(point = %self.point.display(), "what was mounted there is gone");
        }
        if !self.board.begin(&self.point, &source) {
            return;
        }
        self.tried = Some(source.clone());
        let words = ["mount", self.board.kind(), &source];
        match child::run(&self.board, &self.point, &words, self.manner.limit).await {
            End::Done => {
                tracing::info!(point = %self.point.display(), source, "mounted");
                self.mounted_as = Some(source);
            }
            End::Failed(text) => self.fail(text).await,
            End::InUse => self.fail("the mount point is in use".to_owned()).await,
        }
    }

    /// Unmounts what is there once no copy uses it.
    async fn take_away(&mut self) {
        self.board.close(&self.point);
        if !self.empty_within(self.manner.drain).await {
            if self.is_wanted_again() {
                return;
            }
            tracing::info!(point = %self.point.display(), "putting back the copies that use it");
            self.board.clear(&self.point);
            while !self.empty_within(LOOK).await {
                if self.is_wanted_again() {
                    return;
                }
            }
        }
        if self.is_wanted_again() {
            return;
        }
        self.board.set_pending(&self.point, true);
        match child::run(&self.board, &self.point, &["unmount"], self.manner.limit).await {
            End::Done => {
                tracing::info!(point = %self.point.display(), "unmounted");
                if hands::at(&self.point).is_none() {
                    self.mounted_as = None;
                }
                self.board.say(&self.point, None);
                self.pause = PAUSES.0;
            }
            End::InUse => {
                let text = holders::name(&self.point);
                self.fail(text).await;
            }
            End::Failed(text) => self.fail(text).await,
        }
    }

    /// Waits until no copy uses it. False when that takes longer, or it is wanted again.
    async fn empty_within(&mut self, limit: Duration) -> bool {
        let (point, mounted_as) = (&self.point, self.mounted_as.as_ref());
        let over = |state: &State| state.uses(point) == 0 || state.wanted(point) == mounted_as;
        drop(timeout(limit, self.changes.wait_for(over)).await);
        self.board.uses(&self.point) == 0
    }

    fn is_wanted_again(&self) -> bool {
        self.board.wanted(&self.point) == self.mounted_as
    }

    /// Says what is wrong and waits, longer each time, or until something else is wanted.
    async fn fail(&mut self, text: String) {
        tracing::warn!(point = %self.point.display(), "{text}");
        self.board.say(&self.point, Some(text));
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSES.1);
        let (point, wanted) = (&self.point, self.board.wanted(&self.point));
        let news = self.changes.wait_for(|state| state.wanted(point) != wanted.as_ref());
        if timeout(pause, news).await.is_ok() {
            self.pause = PAUSES.0;
        }
    }

    /// Waits for a change of the board.
    async fn change_within(&mut self, limit: Duration) {
        tokio::select! {
            // The sender is in the board.
            _ = self.changes.changed() => {}
            () = sleep(limit) => {}
        }
    }
}
