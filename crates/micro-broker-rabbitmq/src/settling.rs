//! What becomes of a message after its handler: some of that takes a while.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// Work of a subscriber that is done besides handling; dropped, it ends where it stands.
///
/// Each piece of work has a message that RabbitMQ counts as being handled, so there are no more of them than
/// the subscriber has been granted.
#[derive(Debug)]
pub(crate) struct Settling {
    tasks: Mutex<JoinSet<()>>,
    hurry: watch::Sender<bool>,
}

impl Settling {
    pub(crate) fn new() -> Self {
        Self {
            tasks: Mutex::default(),
            hurry: watch::Sender::new(false),
        }
    }

    /// Does something after a pause, or at once if the subscriber stops meanwhile.
    pub(crate) fn after(&self, pause: Duration, work: impl Future<Output = ()> + Send + 'static) {
        let mut hurry = self.hurry.subscribe();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            tokio::select! {
                () = sleep(pause) => {}
                _ = hurry.wait_for(|hurry| *hurry) => {}
            }
            work.await;
        });
    }

    /// Does what is left now; what takes longer than this is dropped.
    pub(crate) async fn finish(&self, grace: Duration) {
        self.hurry.send_replace(true);
        let mut tasks =
            std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let all = async { while tasks.join_next().await.is_some() {} };
        let _ = timeout(grace, all).await;
    }

    /// Drops what is left.
    pub(crate) fn abandon(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.abort_all();
    }
}
