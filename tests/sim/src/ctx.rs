//! What every part of the world may use: time, chance, the network, and the checkers' eyes.

use crate::checks::Checks;
use crate::event::{Addr, Event, Message};
use crate::mutation::Mutation;
use crate::network::Network;
use crate::queue::{Micros, Queue};
use crate::transform::Deployed;
use std::time::Duration;

/// Time, chance, network, checkers.
pub struct Ctx {
    /// Virtual time.
    pub now: Micros,
    /// Everything that is left to chance comes from here.
    pub random: fastrand::Rng,
    /// What happens next.
    pub queue: Queue,
    /// The links.
    pub network: Network,
    /// The invariants.
    pub checks: Checks,
    /// What is broken on purpose.
    pub mutation: Mutation,
    /// All nodes' addresses.
    pub nodes: Vec<Addr>,
    /// Those that are controllers.
    pub voters: Vec<Addr>,
    /// What is deployed.
    pub lanes: Vec<Deployed>,
    /// Numbers for registrations, disks and contents: never given twice.
    last_number: u64,
    /// Whether faults are over.
    pub healed: bool,
    /// Whether to tell on the standard output what happens.
    pub verbose: bool,
    /// Whether clients write nothing more, so that all logs can become equal.
    pub quiet: bool,
}

impl Ctx {
    /// At time zero.
    pub fn new(seed: u64, nodes: Vec<Addr>, voters: Vec<Addr>, mutation: Mutation) -> Ctx {
        Ctx {
            now: 0,
            random: fastrand::Rng::with_seed(seed),
            queue: Queue::default(),
            network: Network::default(),
            checks: Checks::default(),
            mutation,
            nodes,
            voters,
            lanes: Vec::new(),
            last_number: 0,
            healed: false,
            quiet: false,
            verbose: false,
        }
    }

    /// A number that was never given before.
    pub fn fresh(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Lets something happen `after` now.
    pub fn after(&mut self, after: Micros, event: Event) {
        self.queue.push(self.now + after, event);
    }

    /// Sends a message over the network.
    pub fn send(&mut self, from: Addr, to: Addr, message: Message) {
        for delay in self.network.delays(&mut self.random, from, to) {
            let message = message.clone();
            self.after(delay, Event::Deliver { from, to, message });
        }
    }

    /// Sends to every controller: only the leading one acts.
    pub fn send_to_voters(&mut self, from: Addr, message: &Message) {
        for at in 0..self.voters.len() {
            self.send(from, self.voters[at], message.clone());
        }
    }

    /// A time of `min` to `max`.
    pub fn between(&mut self, min: Micros, max: Micros) -> Micros {
        self.random.u64(min..=max)
    }

    /// Tells what happens, if somebody wants to know.
    pub fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10} {}", self.now, what());
        }
    }

    /// True `permille` times of a thousand.
    pub fn chance(&mut self, permille: u32) -> bool {
        self.random.u32(0..1_000) < permille
    }
}

/// Microseconds as the core counts time.
pub fn duration(micros: Micros) -> Duration {
    Duration::from_micros(micros)
}
