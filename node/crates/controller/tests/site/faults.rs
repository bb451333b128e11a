//! Lost messages, cut networks, power cuts.

use crate::support::{Site, create, ids, until};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use weir_controller::SubmitError;
use weir_core::controller::{Command, Done};
use weir_core::deploy::http::HttpGrant;
use weir_core::deploy::{DeploymentKind, DeploymentSpec, OnError, Version};
use weir_core::ids::{NodeId, TimestampMs};
use weir_core::limits;
use weir_core::metadata::DeployAsk;
use weir_log::KvStore;

/// Goal: who reaches no majority decides nothing and says so; the others go on. After the network
/// is whole again all states are equal, and hold what the majority decided.
#[tokio::test(start_paused = true)]
async fn a_minority_stops() {
    let site = Site::started(5, 11).await;
    let nodes = site.ids();
    let leader = site.leader(&nodes).await;
    let mut few = vec![leader];
    few.extend(nodes.iter().copied().find(|&id| id != leader));
    let many: Vec<NodeId> = nodes.iter().copied().filter(|id| !few.contains(id)).collect();
    site.split(&[&few, &many]);
    site.leader(&many).await;
    site.at(many[0]).submit(create("of-many", 1, 3)).await.unwrap();
    until("the few know that they are", || site.at(few[0]).leader().is_none().then_some(())).await;
    for &id in &few {
        let refused = site.at(id).submit(create("of-few", 1, 1)).await.unwrap_err();
        let honest =
            matches!(refused, SubmitError::Unavailable { .. } | SubmitError::Unknown { .. });
        assert!(honest, "{refused}");
    }
    site.heal();
    site.registered(&nodes).await;
    site.converged().await;
    let state = site.state(few[0]);
    assert!(state.image().topic("of-many").is_some());
    assert!(state.image().topic("of-few").is_none());
}

/// Goal: a node that was away for longer than the others keep their log takes over a snapshot, and
/// the log is bounded on all of them.
#[tokio::test(start_paused = true)]
async fn a_snapshot_for_who_was_away() {
    let site = Site::started(3, 12).await;
    let nodes = site.ids();
    let leader = site.leader(&nodes).await;
    let away = nodes.iter().copied().find(|&id| id != leader).unwrap();
    site.kill(away).await;
    // Large enough for several parts.
    for n in 0..40 {
        site.at(leader).submit(create(&format!("topic-{n}"), 200, 1)).await.unwrap();
    }
    let commands = limits::SNAPSHOT_COMMANDS * 3;
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..commands {
        let controller = site.at(leader);
        asked.spawn(async move { controller.submit(ids(1)).await.unwrap() });
        if n % 64 == 63 {
            while asked.join_next().await.is_some() {}
        }
    }
    assert!(site.state(leader).snapshot().len() > 2 * limits::SNAPSHOT_PART_BYTES);
    assert_eq!(site.net.snapshot_parts.load(Ordering::Relaxed), 0);
    site.start(away).await;
    site.registered(&nodes).await;
    assert!(site.net.snapshot_parts.load(Ordering::Relaxed) > 2);
    let before = site.converged().await;
    // What was taken over is on its disk, too.
    site.kill(away).await;
    site.start(away).await;
    site.registered(&nodes).await;
    assert_ne!(site.converged().await, before, "another life");
}

/// Goal: a log of few but large commands is cut, too; a command that is too large is refused before
/// it is sent.
#[tokio::test(start_paused = true)]
async fn large_commands() {
    let site = Site::started(1, 13).await;
    let one = NodeId(1);
    for n in 0..4 * limits::CONTROLLER_LOG_BYTES / (256 * 1024) {
        // Refused, since there is no such module, but an entry all the same.
        let refused = site.at(one).submit(deploy(n, 256 * 1024)).await;
        assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    }
    let huge = site.at(one).submit(deploy(0, 2 * limits::MIB)).await;
    assert!(matches!(huge, Err(SubmitError::TooLarge { .. })), "{huge:?}");
    site.stop(one).await;
    let kv = KvStore::open(Arc::new(site.disks[&one].clone()), "/data/controller.redb").unwrap();
    let kept: usize = kv.range(b"log/").unwrap().iter().map(|(_, value)| value.len()).sum();
    assert!((kept as u64) < 2 * limits::CONTROLLER_LOG_BYTES, "{kept} bytes");
    drop(kv);
    site.start(one).await;
    site.registered(&[one]).await;
}

fn deploy(n: u64, ca_bytes: usize) -> Command {
    let mut http = HttpGrant::of("example.com").unwrap();
    http.ca_pem = Some("x".repeat(ca_bytes));
    let spec = DeploymentSpec {
        kind: DeploymentKind::Consumer,
        version: Version { module: "m@1.0.0".parse().unwrap(), params: [].into() },
        from: "in".into(),
        to: vec![],
        on_error: OnError::Skip,
        dead_letter: None,
        from_latest: false,
        retries: 0,
        lateness_ms: 0,
        cpu_percent: 0,
        log_topic: None,
        http: Some(http),
    };
    let ask = DeployAsk::Create { name: format!("d{n}"), spec };
    Command::Metadata { now: TimestampMs(1), ask: ask.into() }
}

/// Goal: whatever the network and the power do, no command that was confirmed is lost or done
/// twice, and in the end all states are equal. Each seed is another story.
#[tokio::test(start_paused = true)]
async fn stories() {
    for seed in 0..12 {
        story(100 + seed).await;
    }
}

async fn story(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let site = Arc::new(Site::started(3, seed).await);
    let nodes = site.ids();
    let confirmed: Arc<Mutex<Vec<i64>>> = Arc::default();
    let asked = {
        let (site, confirmed, mut random) = (site.clone(), confirmed.clone(), random.fork());
        tokio::spawn(async move {
            for _ in 0..60 {
                let up = site.up();
                let Some(&id) = up.get(random.usize(0..up.len().max(1))) else { continue };
                let controller = site.at(id);
                if let Ok(Done::ProducerIds { first }) = controller.submit(ids(1)).await {
                    confirmed.lock().unwrap().push(first);
                }
                // sleep: a pace at which faults fall between commands, too.
                tokio::time::sleep(Duration::from_millis(random.u64(0..300))).await;
            }
        })
    };
    while !asked.is_finished() {
        let node = nodes[random.usize(0..nodes.len())];
        match random.u32(0..6) {
            0 => site.weather(random.u32(0..30), random.u64(0..200)),
            1 => site.split(&[&[node]]),
            2 | 3 => site.heal(),
            4 if site.up().contains(&node) => site.kill(node).await,
            _ if !site.up().contains(&node) => site.start(node).await,
            _ => {}
        }
        // sleep: the time until the next fault.
        tokio::time::sleep(Duration::from_millis(random.u64(0..2_000))).await;
    }
    site.heal();
    for &id in &nodes {
        if !site.up().contains(&id) {
            site.start(id).await;
        }
    }
    asked.await.unwrap();
    site.registered(&nodes).await;
    site.converged().await;
    let confirmed = confirmed.lock().unwrap().clone();
    let distinct: BTreeSet<_> = confirmed.iter().collect();
    assert_eq!(distinct.len(), confirmed.len(), "seed {seed}: an id was given twice");
    let Done::ProducerIds { first } = site.at(nodes[0]).submit(ids(1)).await.unwrap() else {
        panic!("another answer")
    };
    assert!(confirmed.iter().all(|&id| id < first), "seed {seed}: a confirmed command was lost");
    assert!(!confirmed.is_empty(), "seed {seed}: nothing was ever decided");
    for id in nodes {
        site.stop(id).await;
    }
}
