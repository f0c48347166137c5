//! How long the run may take: what is left of its time is shared out among the workloads to come, and rounds
//! that would not fit are left out. A disk that gives a tenth of yesterday's bandwidth would otherwise make it an
//! hour. Every row runs once, whatever that takes.

use std::time::{Duration, Instant};

/// What is left for workloads that have not begun.
pub struct Budget {
    ends: Instant,
    /// Usual seconds of all that is still to come.
    to_come: f64,
}

impl Budget {
    /// `time` from `began` on for what usually takes so many seconds.
    pub fn new(began: Instant, time: Duration, usual: f64) -> Self {
        Self { ends: began + time, to_come: usual }
    }

    /// When something that begins now and usually takes so many seconds should be over.
    pub fn share(&mut self, usual: f64) -> Instant {
        let now = Instant::now();
        let left = self.ends.saturating_duration_since(now);
        let part = (usual / self.to_come).clamp(0.0, 1.0);
        self.to_come -= usual;
        now + left.mul_f64(part)
    }
}
