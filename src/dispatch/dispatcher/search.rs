//! Finding the lanes that have work.

use std::sync::Arc;
use std::time::Instant;

use posthorn_domain::cluster::Slot;
use posthorn_domain::places::Claim;
use ractor::ActorRef;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::super::subscription::LaneMsg;
use super::{DispatcherMsg, RESTART_PAUSE, SEARCH_STEP, Search, Sleep, State};
use crate::store::lanes::WithWork;

impl State {
    /// Looks for all lanes with work, from the first.
    pub(super) fn look_again(&mut self, myself: &ActorRef<DispatcherMsg>, news: bool) {
        let news = news || self.search.take().is_some_and(|search| search.news);
        self.searches += 1;
        let (number, began) = (self.searches, Instant::now());
        self.search = Some(Search { number, news, began, again: false, after: None, step: None });
        self.search_on(myself);
    }

    /// Looks for the next lanes with work.
    pub(super) fn search_on(&mut self, myself: &ActorRef<DispatcherMsg>) {
        let Some(search) = &mut self.search else { return };
        if search.step.is_some() {
            return;
        }
        let (parts, myself) = (Arc::clone(&self.parts), myself.clone());
        let (number, after) = (search.number, search.after);
        search.step = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                match parts.store.lanes_with_work(after, SEARCH_STEP).await {
                    Ok(found) => {
                        let _ = myself.cast(DispatcherMsg::Found(number, found));
                        return;
                    }
                    Err(error) => debug!(%error, "lanes with work could not be read yet"),
                }
                tokio::time::sleep(RESTART_PAUSE).await;
            }
        })));
    }

    pub(super) async fn found(
        &mut self,
        myself: &ActorRef<DispatcherMsg>,
        number: u64,
        found: Vec<WithWork>,
    ) {
        // Another one was begun meanwhile, perhaps since there are more slots: it is not over yet.
        if self.search.as_ref().is_none_or(|search| search.number != number) {
            return;
        }
        let Some(last) = found.last().map(|lane| lane.id) else {
            let Some(search) = self.search.take() else { return };
            self.parts.leases.searched(search.began);
            if search.news {
                info!(
                    busy = self.lanes.len(),
                    asleep = self.sleepers.len(),
                    "all that was unfinished goes on"
                );
            }
            if search.again {
                self.look_again(myself, false);
            }
            return;
        };
        for WithWork { id, tenant, last, version } in found {
            if !self.served.contains(&Slot::of(id)) {
                continue;
            }
            let missed = |sleep: &Sleep| !sleep.deaf && sleep.last < last;
            if self.lanes.contains_key(&id) {
                self.send(myself, id, LaneMsg::Found(last, version)).await;
            } else if self.sleepers.get(&id).is_none_or(missed) {
                self.forget_sleep(id);
                self.put_outside(myself, id, tenant, Claim::First);
            }
        }
        if let Some(search) = &mut self.search {
            (search.after, search.step) = (Some(last), None);
        }
        self.search_on(myself);
        self.start_more(myself).await;
    }
}
