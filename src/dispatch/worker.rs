//! An actor around a loop: it starts the loop as a task and fails when the loop does, so that the
//! supervisor starts both anew.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio_util::task::AbortOnDropHandle;

use super::Parts;

/// The body of a worker: runs until what feeds it ends.
pub(super) type Body = fn(Arc<Parts>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs one loop.
pub(super) struct Worker;

/// The loop ended.
#[derive(Debug)]
pub(super) struct Ended {
    panicked: bool,
}

impl Actor for Worker {
    type Msg = Ended;
    type State = AbortOnDropHandle<()>;
    type Arguments = (Body, Arc<Parts>);

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        (body, parts): Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let work = AbortOnDropHandle::new(tokio::spawn(body(parts)));
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            let panicked = work.await.is_err();
            // Where the actor is gone, nobody waits for its loop.
            let _ = myself.cast(Ended { panicked });
        })))
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        _: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        if message.panicked {
            return Err("the loop panicked".into());
        }
        myself.stop(None);
        Ok(())
    }
}
