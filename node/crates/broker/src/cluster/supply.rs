//! Bytes of modules, which every node that runs any of them needs.
//!
//! What modules there are is metadata; their bytes are files. Whoever takes an upload has other
//! nodes fetch it before the module becomes known: a majority of the nodes that hold records has it
//! then, so it is lost only with them. The others, and nodes that join, fetch what they miss.

use super::ClusterNode;
use super::forward;
use crate::broker::Shared;
use crate::modules::files::{FilesError, ModuleFiles};
use crate::modules::{Modules, files_error};
use crate::session::Session;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use weir_core::access::Role;
use weir_core::ids::NodeId;
use weir_core::module::Module;
use weir_core::module::name::ModuleRef;
use weir_core::wire::message::{Request, Response};
use weir_core::wire::{ErrorCode, WireError};

/// How long until a module that could not be fetched is asked for again.
const RETRY: Duration = Duration::from_secs(2);
/// What is older than this and in no version is not on its way into one.
const PUSH_MAX: Duration = Duration::from_secs(3_600);
/// The pause while somebody else writes an upload.
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// How often that is waited for.
const BUSY_TRIES: u32 = 500;

/// Sees to it that this node has all modules, and keeps none that was deleted, until the node shuts
/// down.
pub async fn run(cluster: Arc<ClusterNode>, shared: Arc<Shared>) {
    let mut adopted = shared.registry.adopted();
    let mut known: BTreeMap<ModuleRef, Module> = BTreeMap::new();
    if adopted.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let modules = shared.modules.clone();
    let kept = tokio::task::spawn_blocking(move || modules.files().older_than(PUSH_MAX)).await;
    for sha256 in kept.unwrap_or_default() {
        // Deleted while this node was away, or held for a push that came to nothing.
        shared.modules.forget(&sha256, &shared.registry);
    }
    loop {
        adopted.borrow_and_update();
        let now: BTreeMap<ModuleRef, Module> = shared
            .registry
            .modules()
            .into_iter()
            .map(|module| (module.id.clone(), module))
            .collect();
        let mut missing = false;
        if now != known {
            for module in known.values().filter(|module| !now.contains_key(&module.id)) {
                shared.modules.forget_version(module, &shared.registry);
            }
            for module in now.values() {
                let fetched = fetch(&cluster, &shared.modules, module, None);
                let fetched = tokio::select! {
                    fetched = fetched => fetched,
                    () = shared.stopping.cancelled() => return,
                };
                if let Err(error) = fetched {
                    tracing::warn!(module = %module.id, %error, "a module is not here yet");
                    missing = true;
                }
            }
            known = if missing { BTreeMap::new() } else { now };
        }
        tokio::select! {
            () = shared.stopping.cancelled() => return,
            changed = adopted.changed() => if changed.is_err() { return },
            // sleep: nothing tells when a node that has it is there again.
            () = sleep(RETRY), if missing => {}
        }
    }
}

/// Has a majority of the nodes that hold records have a module, which is here.
///
/// # Errors
/// [`ErrorCode::Offline`] if too few got it.
///
/// # Cancel safety
/// Cancel safe.
pub async fn spread(shared: &Arc<Shared>, module: &Module) -> Result<(), WireError> {
    let Some(cluster) = &shared.site else { return Ok(()) };
    let Some(state) = cluster.state() else { return Ok(()) };
    let (sha256, bytes) = (module.sha256.clone(), module.bytes);
    let held = cluster.ask_others(&Request::HoldModule { sha256, bytes }).await;
    let mut have = usize::from(!cluster.config.witness);
    for (node, answer) in &held {
        match answer {
            Ok(_) => have += 1,
            Err(error) => tracing::warn!(%node, %error, "a node did not get a module"),
        }
    }
    let all = state.cluster().nodes().len();
    if have > all / 2 {
        return Ok(());
    }
    let message = format!(
        "only {have} of {all} nodes got the module: more than half must have it; see `weir cluster \
         status`, and push it again"
    );
    Err(WireError::new(ErrorCode::Offline, message))
}

/// Answers another node once this one has a module.
///
/// # Errors
/// [`ErrorCode::Unauthorized`] for whoever is no node of the cluster; nobody has it; the disk
/// failed.
pub async fn hold(session: &Session, sha256: String, bytes: u64) -> Result<Response, WireError> {
    let from = session.member()?;
    let shared = &session.shared;
    let Some(cluster) = &shared.site else { return Ok(Response::Done {}) };
    fetch_bytes(cluster, &shared.modules, (&sha256, bytes), Some(from)).await?;
    Ok(Response::Done {})
}

/// Answers another node, or an administrator, with some bytes of a module.
///
/// # Errors
/// [`ErrorCode::Unauthorized`] for others; it is not here; the disk failed.
pub async fn part(session: &Session, sha256: String, at: u64) -> Result<Response, WireError> {
    session.authorize(Role::Admin, None)?;
    let part = on_disk(&session.shared.modules, move |files| files.part(&sha256, at)).await?;
    Ok(Response::ModulePart { data: part.into() })
}

/// Gets a module that is not here from a node that has it.
///
/// # Errors
/// No node that answers has it, or the disk failed.
///
/// # Cancel safety
/// Cancel safe: what came is kept, and gone on from.
pub async fn fetch(
    cluster: &ClusterNode,
    modules: &Arc<Modules>,
    module: &Module,
    first: Option<NodeId>,
) -> Result<(), WireError> {
    fetch_bytes(cluster, modules, (&module.sha256, module.bytes), first).await
}

async fn fetch_bytes(
    cluster: &ClusterNode,
    modules: &Arc<Modules>,
    (sha256, bytes): (&str, u64),
    first: Option<NodeId>,
) -> Result<(), WireError> {
    let _one_at_a_time = modules.fetching().lock().await;
    if modules.files().path(sha256).is_ok() {
        return Ok(());
    }
    let others = cluster.others().into_iter().filter(|node| Some(*node) != first);
    let mut last = WireError::new(ErrorCode::Offline, "no other node is there");
    for node in first.into_iter().chain(others) {
        match fetch_from(cluster, modules, (sha256, bytes), node).await {
            Ok(()) => {
                tracing::info!(sha256, bytes, %node, "fetched a module");
                return Ok(());
            }
            Err(error) => last = error,
        }
    }
    let message = format!("no node has the module {sha256}: {}; push it again", last.message);
    Err(WireError::new(ErrorCode::Offline, message))
}

async fn fetch_from(
    cluster: &ClusterNode,
    modules: &Arc<Modules>,
    (sha256, bytes): (&str, u64),
    node: NodeId,
) -> Result<(), WireError> {
    let hash = sha256.to_owned();
    let mut have = on_disk(modules, move |files| files.begin(&hash, bytes)).await?;
    while have < bytes {
        let ask = Request::ModulePart { sha256: sha256.to_owned(), at: have };
        let data = match forward::request(&cluster.peers, node, &ask).await? {
            Response::ModulePart { data } if !data.is_empty() => data,
            _ => return Err(WireError::new(ErrorCode::Protocol, "the node has less of it")),
        };
        let hash = sha256.to_owned();
        have = on_disk(modules, move |files| files.add(&hash, have, &data)).await?;
    }
    let hash = sha256.to_owned();
    on_disk(modules, move |files| files.finish(&hash)).await?;
    Ok(())
}

/// A step on a thread that may wait for the disk. Waits while somebody uploads.
async fn on_disk<T: Send + 'static>(
    modules: &Arc<Modules>,
    step: impl Fn(&ModuleFiles) -> Result<T, FilesError> + Send + Sync + 'static,
) -> Result<T, WireError> {
    let step = Arc::new(step);
    for _ in 0..BUSY_TRIES {
        let (modules, step) = (modules.clone(), step.clone());
        let done = tokio::task::spawn_blocking(move || step(modules.files())).await;
        match done {
            Ok(Ok(done)) => return Ok(done),
            // sleep: an upload's part is written within milliseconds, and nothing tells when.
            Ok(Err(FilesError::Busy)) => sleep(BUSY_PAUSE).await,
            Ok(Err(error)) => return Err(files_error(&error)),
            Err(panic) => return Err(WireError::new(ErrorCode::Internal, panic.to_string())),
        }
    }
    Err(files_error(&FilesError::Busy))
}
