//! `weir bench wear`: bytes written for each record that producers send now and then, by rate, with
//! and without waiting for others. What a flash disk is worn by.

use serde_json::json;
use weir_core::record::Compression;
use weir_core::topic::TopicConfig;

use super::args::WearArgs;
use super::load::{Load, Until};
use super::produce;
use super::report::{Figures, Report, map, round};
use super::steady::{Spell, spell};
use super::target::Target;
use crate::cli::Globals;
use crate::exit::Failure;
use crate::units::Span;

/// The setting that some rows do without.
const TRICKLE_LINGER: &str = "WEIR_STORAGE_TRICKLE_LINGER";

/// Measures.
///
/// # Errors
/// A node fails.
pub async fn run(globals: &Globals, args: &WearArgs) -> Result<Report, Failure> {
    let settings = map([
        ("producers", json!(args.producers)),
        ("record_bytes", json!(args.record_size)),
        ("seconds", json!(args.duration.0.as_secs_f64())),
    ]);
    let mut report = Report::new("wear", settings);
    let topic_linger = format!("topic {}", args.commit_linger);
    // A running node is measured as it is set.
    if globals.server.is_none() {
        let off = [(TRICKLE_LINGER, "0")];
        let mut target = Target::open_with(globals, &args.place.dir, &off).await?;
        rows(&mut target, args, "none", Span::default(), &mut report.rows).await?;
        rows(&mut target, args, &topic_linger, args.commit_linger, &mut report.rows).await?;
        target.close().await;
    }
    let mut target = Target::open(globals, &args.place.dir).await?;
    rows(&mut target, args, "as the node is set", Span::default(), &mut report.rows).await?;
    if globals.server.is_some() {
        rows(&mut target, args, &topic_linger, args.commit_linger, &mut report.rows).await?;
    }
    target.close().await;
    Ok(report)
}

/// One row for each rate.
async fn rows(
    target: &mut Target,
    args: &WearArgs,
    name: &str,
    linger: Span,
    rows: &mut Vec<Figures>,
) -> Result<(), Failure> {
    let clients = produce::clients(target, args.producers).await?;
    let config = TopicConfig {
        partitions: args.partitions,
        commit_linger_ms: u32::try_from(linger.as_ms()).unwrap_or(u32::MAX),
        ..TopicConfig::default()
    };
    let topic = target.create_topic_with(&clients[0], config).await?;
    for &rate in &args.rates {
        let load = Load {
            topic: topic.clone(),
            partitions: args.partitions,
            record_bytes: args.record_size,
            batch_records: 1,
            producers: args.producers,
            in_flight: 5,
            until: Until::Time(args.duration.0),
            rate: Some(rate),
            compression: Compression::None,
            per_record: true,
        };
        rows.push(row(name, rate, &spell(target, &clients, &load).await?));
    }
    target.delete_topic(&clients[0], &topic).await?;
    produce::close(clients).await;
    Ok(())
}

fn row(linger: &str, rate: f64, spell: &Spell) -> Figures {
    let per_record = |figure: u64| round(figure as f64 / spell.produced.records.max(1) as f64);
    let ack_p50 = spell.produced.acks.percentiles().map(|acks| acks.p50);
    map([
        ("commit_linger", json!(linger)),
        ("rate", round(rate)),
        ("records", json!(spell.produced.records)),
        ("bytes_written_per_record", per_record(spell.written)),
        ("device_bytes_per_record", spell.to_device.map_or(json!(null), per_record)),
        ("commits_per_record", per_record(spell.commits)),
        ("ack_p50_ms", ack_p50.map_or(json!(null), round)),
        ("node_cpu_percent", spell.cpu_percent.map_or(json!(null), round)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::load::Produced;
    use weir_core::wire::message::NodeStatus;

    #[test]
    fn figures_are_per_record() {
        let spell = Spell {
            produced: Produced { records: 4, ..Produced::default() },
            cpu_percent: None,
            written: 100,
            to_device: Some(200),
            commits: 2,
            held: 0,
            after: NodeStatus::default(),
        };
        let row = row("none", 10.0, &spell);
        assert_eq!(row.get("bytes_written_per_record"), &json!(25.0));
        assert_eq!(row.get("device_bytes_per_record"), &json!(50.0));
        assert_eq!(row.get("commits_per_record"), &json!(0.5));
        assert!(row.get("ack_p50_ms").is_null() && row.get("node_cpu_percent").is_null());
    }
}
