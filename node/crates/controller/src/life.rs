//! This node's registration. Whether there is one is read from the state, so a node learns that its
//! life is over as it learns everything else.

use crate::controller::Inner;
use crate::submit::submit;
use std::sync::Arc;
use std::time::Duration;
use weir_core::cluster::ClusterAsk;
use weir_core::cluster::members::MembersAsk;
use weir_core::controller::Command;

/// Shortest and longest pause before a registration is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Has the list of members say that this node is a witness: it has nothing else to register.
pub async fn announce(inner: Arc<Inner>) {
    let mut states = inner.state.clone();
    loop {
        let row = {
            let state = states.borrow_and_update();
            state.cluster().members().rows.get(&inner.config.node).cloned()
        };
        let mut tried = false;
        if let Some(row) = row.filter(|row| !row.witness) {
            let (name, address, witness) = (row.name, row.address, Some(true));
            let put = MembersAsk::Put { name, address, witness };
            tried = true;
            if let Err(error) = submit(&inner, Command::Cluster(ClusterAsk::Members(put))).await {
                tracing::debug!("not known as a witness yet: {error}");
            }
        }
        match tried {
            true => drop(tokio::time::timeout(RETRY.1, states.changed()).await),
            false => {
                if states.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Keeps this node registered.
pub async fn run(inner: Arc<Inner>) {
    let mut states = inner.state.clone();
    let mut pause = RETRY.0;
    let node = inner.config.node;
    loop {
        let known = states.borrow_and_update().cluster().nodes().get(&node).cloned();
        let life = known.filter(|known| known.start == inner.start).map(|known| known.incarnation);
        let before = inner.life.send_replace(life);
        if let Some(incarnation) = life {
            pause = RETRY.0;
            if before.is_none() {
                tracing::info!(%node, %incarnation, "this node is registered");
            }
            if states.changed().await.is_err() {
                return;
            }
            continue;
        }
        if before.is_some() {
            tracing::warn!(%node, "another process registered as this node; are there two?");
            tokio::time::sleep(RETRY.1).await;
        }
        let (start, disk, rack) = (inner.start, inner.config.disk, inner.config.rack.clone());
        let register = Command::Cluster(ClusterAsk::Register { node, start, disk, rack });
        if let Err(error) = submit(&inner, register).await {
            tracing::debug!("not registered yet: {error}");
        }
        let _ = tokio::time::timeout(pause, states.changed()).await;
        pause = (pause * 2).min(RETRY.1);
    }
}
