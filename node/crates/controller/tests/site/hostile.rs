//! Messages that are none, or lie.

use crate::support::{Site, create, ids};
use bytes::Bytes;
use std::sync::{Arc, Mutex};
use weir_controller::{CallError, Controller, Transport};
use weir_core::ids::NodeId;
use weir_core::limits;

/// Hands on what it is given, and keeps copies.
struct Tap {
    to: Arc<Mutex<Option<Controller>>>,
    seen: Arc<Mutex<Vec<Bytes>>>,
}

impl Transport for Tap {
    async fn call(&self, to: NodeId, request: Bytes) -> Result<Bytes, CallError> {
        self.seen.lock().unwrap().push(request.clone());
        let there = self.to.lock().unwrap().clone();
        match there {
            Some(there) => Ok(there.handle(NodeId(1), request).await),
            None => Err(CallError::NotSent { to, reason: "not yet".into() }),
        }
    }
}

fn says(answer: &Bytes, word: &str) -> bool {
    answer.windows(word.len()).any(|window| window == word.as_bytes())
}

/// Goal: noise, and messages of strangers or without end, are answered with an error that says
/// which; the controller goes on.
#[tokio::test(start_paused = true)]
async fn noise() {
    let site = Site::started(3, 31).await;
    let target = site.at(NodeId(2));
    let from = NodeId(1);
    let probe = Bytes::from_static(b"\xa1\x65probe\xa0");
    assert!(says(&target.handle(NodeId(9), probe.clone()).await, "stranger"));
    assert!(says(&target.handle_stranger(probe).await, "stranger"));
    let large = Bytes::from(vec![0; limits::CONTROLLER_MESSAGE_BYTES_MAX + 1]);
    assert!(says(&target.handle(from, large).await, "too_large"));
    let mut random = fastrand::Rng::with_seed(31);
    for _ in 0..2_000 {
        let noise: Vec<u8> = (0..random.usize(0..64)).map(|_| random.u8(..)).collect();
        assert!(says(&target.handle(from, noise.into()).await, "error"));
    }
    site.at(NodeId(3)).submit(ids(1)).await.unwrap();
    site.converged().await;
}

/// Goal: real messages, cut off or with a byte changed, from whom they may come from, stop no
/// controller, whatever they now say.
#[tokio::test(start_paused = true)]
async fn altered_messages() {
    let site = Site::of(2, 32);
    let to = Arc::new(Mutex::new(None));
    let seen: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    site.start(NodeId(2)).await;
    *to.lock().unwrap() = Some(site.at(NodeId(2)));
    let disk = site.disks[&NodeId(1)].clone();
    let kv = weir_log::KvStore::open(Arc::new(disk), "/data/controller.redb").unwrap();
    let tap = Tap { to, seen: seen.clone() };
    let one = Controller::start(site.config(NodeId(1)), kv, tap).await.unwrap();
    site.net.up.lock().unwrap().insert(NodeId(1), one);
    site.registered(&site.ids()).await;
    for n in 0..4 {
        site.at(NodeId(2)).submit(create(&format!("t{n}"), 3, 2)).await.unwrap();
    }
    let messages = seen.lock().unwrap().clone();
    // Another node of the same number, whom only these messages reach.
    let victims = Site::of(2, 33);
    victims.start(NodeId(2)).await;
    let victim = victims.at(NodeId(2));
    let mut random = fastrand::Rng::with_seed(32);
    for message in &messages {
        for _ in 0..200 {
            let mut bytes = message.to_vec();
            match random.u32(0..4) {
                0 => bytes.truncate(random.usize(0..message.len())),
                _ => {
                    let at = random.usize(0..bytes.len());
                    bytes[at] = random.u8(..);
                }
            }
            victim.handle(NodeId(1), bytes.into()).await;
            let probe = Bytes::from_static(b"\xa1\x65probe\xa0");
            let answer = victim.handle(NodeId(1), probe).await;
            assert!(says(&answer, "joined"), "it stopped at {message:02x?}");
        }
        victim.handle(NodeId(1), message.clone()).await;
    }
    assert!(victim.state().borrow().image().topic("t0").is_some(), "the real ones were taken");
}
