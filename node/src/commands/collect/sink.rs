//! From what was collected to the topics: data here, dead letters there.

use std::sync::Arc;
use std::time::Instant;

use weir_client::{Client, Producer, ProducerRecord};
use weir_collect::Collected;
use weir_core::topic::TopicConfig;

use super::args::Common;
use crate::commands::produce::acks::{Acknowledged, Acks};
use crate::commands::sdk;
use crate::exit::Failure;

/// Produces to a topic and its dead-letter topic.
#[derive(Debug)]
pub struct Sink {
    client: Client,
    producer: Producer,
    acks: Acks,
    topic: Arc<str>,
    dead_letters: Arc<str>,
    /// The dead-letter topic is known to exist.
    has_dead_letters: bool,
}

impl Sink {
    /// Makes sure that there is a topic, and starts to produce. The dead-letter topic is made
    /// with the first dead letter.
    ///
    /// # Errors
    /// The node says no.
    pub async fn start(client: &Client, topic: &str, common: &Common) -> Result<Sink, Failure> {
        let config = TopicConfig { partitions: common.partitions, ..TopicConfig::default() };
        sdk::topic(client, topic, Some(config)).await?;
        let mut builder = client.producer();
        if let Some(compression) = common.compression {
            builder = builder.compression(compression);
        }
        let producer = builder
            .build()
            .await
            .map_err(|error| sdk::request_failure("starting to produce", &error))?;
        let default = || format!("{topic}.dead-letter");
        Ok(Sink {
            client: client.clone(),
            producer,
            acks: Acks::start(),
            topic: topic.into(),
            dead_letters: common.dead_letters.clone().unwrap_or_else(default).into(),
            has_dead_letters: false,
        })
    }

    /// Where dead letters go.
    pub fn dead_letters(&self) -> &str {
        &self.dead_letters
    }

    /// Hands one record over. Waits only while the producer's buffer is full.
    ///
    /// # Errors
    /// The record was refused, or an earlier one was not acknowledged.
    pub async fn send(&mut self, collected: Collected) -> Result<(), Failure> {
        let topic = if collected.is_dead_letter() {
            self.ensure_dead_letters().await?;
            self.dead_letters.clone()
        } else {
            self.topic.clone()
        };
        let bytes = collected.key.as_ref().map_or(0, |key| key.len()) + collected.value.len();
        let record = ProducerRecord {
            topic,
            partition: None,
            key: collected.key,
            value: Some(collected.value),
            headers: collected.headers,
            timestamp: collected.timestamp_ms,
        };
        let sent_at = Instant::now();
        let delivery =
            self.producer.send(record).await.map_err(|error| sdk::send_failure(&error))?;
        self.acks.add(sent_at, bytes, delivery).await
    }

    async fn ensure_dead_letters(&mut self) -> Result<(), Failure> {
        if !self.has_dead_letters {
            let config = TopicConfig::default();
            sdk::topic(&self.client, &self.dead_letters, Some(config)).await?;
            self.has_dead_letters = true;
        }
        Ok(())
    }

    /// Waits until everything handed over is acknowledged.
    ///
    /// # Errors
    /// Something was not.
    pub async fn flush(&self) -> Result<(), Failure> {
        let flushed = self.producer.flush().await;
        flushed.map_err(|error| sdk::delivery_failure(&error.first))
    }

    /// Waits for everything, or until the program is told again to end.
    pub async fn finish(self) -> Acknowledged {
        let given_up = sdk::given_up(false);
        tokio::pin!(given_up);
        tokio::select! {
            biased;
            // What could not be flushed shows in the acknowledgements.
            _ = self.producer.flush() => self.acks.finish(given_up).await,
            () = &mut given_up => self.acks.finish(std::future::ready(())).await,
        }
    }
}
