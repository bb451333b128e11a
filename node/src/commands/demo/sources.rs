//! The demo's inputs: this machine's sensors and GPS receivers, as they come or as they came.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use weir_client::{Delivery, Producer, ProducerRecord};
use weir_collect::host::HostSampler;
use weir_collect::nmea::NmeaOptions;
use weir_collect::simulate::{SimulatedReceivers, SimulatorOptions};
use weir_collect::{Collected, Collector, Input};

use super::stats::SENT_HEADER;
use crate::commands::sdk;
use crate::exit::{Exit, Failure};

/// This machine's sensors.
pub const HOST_TOPIC: &str = "host.sensors";
/// Positions.
pub const GPS_TOPIC: &str = "gps.position";
/// Sentences that could not be understood.
pub const DEAD_TOPIC: &str = "gps.position.dead-letter";

/// How often the sensors are read and the simulated receivers report.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Samples that may wait for the producer.
const SAMPLES_MAX: usize = 4;
/// Longest pause in a replay: a receiver that was off for hours is not waited for.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// Share of the simulated sentences that arrive damaged, so that dead letters are seen, too.
const FAULT_RATE: f64 = 0.005;

/// Where positions come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Gps {
    /// A file, replayed so many times as fast as it was recorded.
    File(PathBuf, f64),
    /// So many simulated receivers.
    Simulated(usize),
}

impl Gps {
    /// In words.
    pub fn describe(&self) -> String {
        match self {
            Gps::File(path, speed) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                let pace = if *speed == 1.0 { String::new() } else { format!(" at {speed}x") };
                format!("{name}{pace}")
            }
            Gps::Simulated(1) => "a simulated receiver".to_owned(),
            Gps::Simulated(receivers) => format!("{receivers} simulated receivers"),
        }
    }
}

/// Hands records to the producer, stamped with the time of doing so.
#[derive(Clone, Debug)]
pub struct Feed {
    producer: Producer,
}

impl Feed {
    /// A feed of this producer.
    pub fn new(producer: Producer) -> Feed {
        Feed { producer }
    }

    /// Hands one record over.
    async fn send(&self, topic: &str, collected: Collected) -> Result<Delivery, Failure> {
        let mut headers = collected.headers;
        headers.push((SENT_HEADER.to_owned(), Bytes::from(now_us().to_string())));
        let record = ProducerRecord {
            topic: topic.into(),
            partition: None,
            key: collected.key,
            value: Some(collected.value),
            headers,
            timestamp: collected.timestamp_ms,
        };
        self.producer.send(record).await.map_err(|error| sdk::send_failure(&error))
    }

    /// Hands many over and waits until the node has them.
    async fn send_all(&self, topic: &str, collected: Vec<Collected>) -> Result<(), Failure> {
        let mut deliveries = Vec::with_capacity(collected.len());
        for record in collected {
            let topic = if record.is_dead_letter() { DEAD_TOPIC } else { topic };
            deliveries.push(self.send(topic, record).await?);
        }
        for delivery in deliveries {
            delivery.await.map_err(|error| sdk::delivery_failure(&error))?;
        }
        Ok(())
    }
}

/// Microseconds since 1970.
pub fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// Feeds this machine's sensors until it is dropped.
///
/// # Errors
/// A record could not be produced.
pub async fn run_host(feed: Feed) -> Result<(), Failure> {
    let mut samples = sample_host()?;
    while let Some(sample) = samples.recv().await {
        feed.send_all(HOST_TOPIC, sample).await?;
    }
    Ok(())
}

/// Reads the sensors on a thread of its own: that takes milliseconds, which the network does not
/// wait for.
fn sample_host() -> std::io::Result<mpsc::Receiver<Vec<Collected>>> {
    let (sender, receiver) = mpsc::channel(SAMPLES_MAX);
    std::thread::Builder::new().name("weir-demo-sensors".to_owned()).spawn(move || {
        let mut sampler = HostSampler::new();
        let mut next = Instant::now();
        while sender.blocking_send(sampler.sample(sdk::now_ms())).is_ok() {
            next += SAMPLE_EVERY;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    })?;
    Ok(receiver)
}

/// Feeds positions until it is dropped or the file ends.
///
/// # Errors
/// The file cannot be read, or a record could not be produced.
pub async fn run_gps(feed: Feed, gps: Gps) -> Result<(), Failure> {
    match gps {
        Gps::Simulated(devices) => simulate(feed, devices).await,
        Gps::File(path, speed) => replay(feed, path, speed).await,
    }
}

async fn simulate(feed: Feed, devices: usize) -> Result<(), Failure> {
    let simulator =
        SimulatorOptions { devices, fault_rate: FAULT_RATE, ..SimulatorOptions::default() };
    let mut receivers = SimulatedReceivers::new(simulator, NmeaOptions::default());
    let mut tick = interval(SAMPLE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        feed.send_all(GPS_TOPIC, receivers.sample(sdk::now_ms())).await?;
    }
}

async fn replay(feed: Feed, path: PathBuf, speed: f64) -> Result<(), Failure> {
    let failure = |error| Failure::new(Exit::Error, format!("{error}"));
    let input = Input::Files(vec![path]);
    let mut collector = Collector::nmea(input, NmeaOptions::default()).await.map_err(failure)?;
    let mut pace = Pace::new(Instant::now(), speed);
    while let Some(record) = collector.next().await.map_err(failure)? {
        if let Some(ms) = record.timestamp_ms {
            sleep_until(pace.due(ms).into()).await;
        }
        feed.send_all(GPS_TOPIC, vec![record]).await?;
    }
    Ok(())
}

/// When records of a recording are due.
#[derive(Debug)]
struct Pace {
    speed: f64,
    due: Instant,
    last_ms: Option<i64>,
}

impl Pace {
    fn new(start: Instant, speed: f64) -> Pace {
        Pace { speed, due: start, last_ms: None }
    }

    /// When a record of this event time is due. Steps back in time and long pauses are cut short.
    fn due(&mut self, ms: i64) -> Instant {
        let step_ms = self.last_ms.map_or(0, |last| ms.saturating_sub(last));
        self.last_ms = Some(ms);
        let step = Duration::from_millis(u64::try_from(step_ms).unwrap_or(0));
        self.due += step.div_f64(self.speed).min(PAUSE_MAX);
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replays_keep_their_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 2.0);
        let at = |s: f64| start + Duration::from_secs_f64(s);
        assert_eq!(pace.due(1_000_000), at(0.0));
        assert_eq!(pace.due(1_003_000), at(1.5));
        assert_eq!(pace.due(900_000), at(1.5), "time went back");
        assert_eq!(pace.due(900_500), at(1.75));
        assert_eq!(pace.due(9_000_000), at(11.75), "a long pause");
        assert_eq!(pace.due(i64::MIN), at(11.75));
    }
}
