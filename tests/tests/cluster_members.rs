//! Real nodes that are drained, added and removed while a cluster is in use.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use weir_client::{Client, ClientConfig, TlsConfig, TopicConfig};
use weir_core::ids::NodeId;
use weir_core::wire::cluster::{ClusterNodeInfo, ClusterStatus, ReplicasInfo};
use weir_tests::history::History;
use weir_tests::node_process::{NodeProcess, PATIENCE};
use weir_tests::site::{Site, free_addresses};

const TOPIC: &str = "sensors";
const PARTITIONS: u32 = 3;

fn topic(partitions: u32, replicas: u32, min_insync: u32) -> TopicConfig {
    TopicConfig { partitions, replicas, min_insync, ..TopicConfig::default() }
}

fn rows<'a>(status: &'a ClusterStatus, topic: &'a str) -> impl Iterator<Item = &'a ReplicasInfo> {
    status.partitions.iter().filter(move |row| row.topic == topic)
}

/// Whether all partitions of a topic are led and have all replicas in sync, and nothing moves.
fn whole(status: &ClusterStatus, topic: &str) -> bool {
    rows(status, topic).count() > 0
        && rows(status, topic).all(|row| {
            row.leader.is_some() && row.target.is_empty() && row.insync.len() == row.replicas.len()
        })
}

fn node(status: &ClusterStatus, number: u32) -> Option<&ClusterNodeInfo> {
    status.nodes.iter().find(|node| node.id == NodeId(number))
}

/// Goal: a drained node gives away what others can take, also leads of copies that nobody else can
/// take, and is given nothing new, through kills of any node; used again it gets its share. All
/// that under load, of which nothing is lost or doubled ([`History`]).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_drained_and_used_again() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let clients = [site.client(&[0, 1, 2]).await?, site.client(&[1, 2, 0]).await?];
    let admin = clients[0].admin();
    admin.create_topic(TOPIC, topic(PARTITIONS, 3, 2)).await?;
    admin.create_topic("pairs", topic(6, 2, 2)).await?;
    let all = |status: &ClusterStatus| whole(status, TOPIC) && whole(status, "pairs");
    site.wait(0, all).await?;
    let mut history = History::start(TOPIC, PARTITIONS, &clients, &clients[1]);
    history.wait_for_more(100).await?;

    let said = site.nodes[1].weir(&["cluster", "drain", "edge-1"]).expect(0);
    ensure!(said.stdout.contains("4 copies stay"), "{}{}", said.stdout, said.stderr);
    let empty = |status: &ClusterStatus| {
        node(status, 1).is_some_and(|node| node.drained && node.leads == 0 && node.replicas == 4)
            && rows(status, "pairs").all(|row| {
                row.replicas == [NodeId(2), NodeId(3)] || row.replicas == [NodeId(3), NodeId(2)]
            })
    };
    site.wait(1, |status| empty(status) && all(status)).await?;
    history.wait_for_more(100).await.context("after the drain")?;
    admin.create_topic("later", topic(4, 1, 1)).await?;
    let refused = admin.create_topic("wide", topic(1, 3, 1)).await.expect_err("three of two nodes");
    ensure!(refused.to_string().contains("3 replicas on 2 nodes"), "{refused}");

    for killed in [0, 1] {
        site.nodes[killed].kill()?;
        history.wait_for_more(100).await.with_context(|| format!("without node {killed}"))?;
        site.nodes[killed].start_again()?;
        let after = |status: &ClusterStatus| empty(status) && all(status);
        site.wait(2, after).await.with_context(|| format!("with node {killed}"))?;
    }
    let status = site.status(2).await?;
    ensure!(rows(&status, "later").all(|row| row.replicas != [NodeId(1)]), "{status:#?}");
    let shown = site.nodes[2].weir(&["cluster", "status"]).expect(0);
    ensure!(shown.stdout.contains("up, drained"), "{}", shown.stdout);

    site.nodes[2].weir(&["cluster", "drain", "1", "--undo"]).expect(0);
    let planned = site.nodes[2].weir(&["cluster", "rebalance", "--dry-run"]).expect(0);
    ensure!(planned.stdout.contains("pairs"), "{}", planned.stdout);
    site.nodes[2].weir(&["cluster", "rebalance"]).expect(0);
    let again = site.nodes[0].weir(&["cluster", "rebalance"]).expect(0);
    ensure!(again.stdout.contains("nothing to move"), "{}", again.stdout);
    let even = |status: &ClusterStatus| {
        let held: Vec<u32> = status.nodes.iter().map(|node| node.replicas).collect();
        let led: Vec<u32> = status.nodes.iter().map(|node| node.leads).collect();
        let spread = |of: &[u32]| of.iter().max().zip(of.iter().min()).map(|(a, b)| a - b);
        spread(&held) <= Some(1) && spread(&led) <= Some(1) && all(status)
    };
    site.wait(0, even).await?;
    let unknown = site.nodes[0].weir(&["cluster", "drain", "edge-9"]).expect(4);
    ensure!(unknown.stderr.contains("edge-1, edge-2, edge-3"), "{}", unknown.stderr);
    let stored = history.finish(&clients[0]).await?;
    println!("{stored} records through a drain and a rebalance");
    for client in clients {
        client.close().await;
    }
    Ok(())
}

/// Who votes, and whether everybody who shall does.
fn voters(status: &ClusterStatus) -> Option<Vec<u32>> {
    let all = status.leaving.is_empty() && status.nodes.iter().all(|n| n.voter == Some(true));
    all.then(|| status.nodes.iter().map(|node| node.id.0).collect())
}

/// Goal: a dead node is removed and another one takes its place and its copies; a node in use is
/// replaced as well, and ends; whoever was removed is refused with the reason. All that under load,
/// of which nothing is lost or doubled ([`History`]).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_are_replaced() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut site = Site::start(dir.path(), 3).await?;
    let client = site.client(&[0, 1]).await?;
    client.admin().create_topic(TOPIC, topic(PARTITIONS, 3, 2)).await?;
    site.wait(0, |status| whole(status, TOPIC)).await?;

    site.nodes[2].kill()?;
    site.wait(0, |status| node(status, 3).is_some_and(|node| node.fenced)).await?;
    let refused = site.nodes[0].weir(&["cluster", "remove", "edge-3"]).expect(4);
    ensure!(refused.stderr.contains("holds 4 copies"), "{}", refused.stderr);
    let quorum = site.nodes[0].weir(&["cluster", "remove", "edge-2", "--force"]).expect(4);
    ensure!(quorum.stderr.contains("2 of 2 members must be there"), "{}", quorum.stderr);
    site.nodes[0].weir(&["cluster", "remove", "edge-3", "--force"]).expect(0);
    site.wait(1, |status| voters(status) == Some(vec![1, 2])).await?;
    site.add(1, dir.path())?;
    let three = |ids: [u32; 3]| {
        move |status: &ClusterStatus| {
            let mut held = rows(status, TOPIC).map(|row| row.replicas.len());
            voters(status) == Some(ids.to_vec()) && whole(status, TOPIC) && held.all(|n| n == 3)
        }
    };
    site.wait(1, three([1, 2, 4])).await.context("with node 4")?;
    // It may serve for a moment, until another node tells it.
    if site.nodes[2].start_again().is_ok() {
        let ended = site.nodes[2].wait()?;
        ensure!(ended.code() == Some(4), "{ended}: {}", site.nodes[2].log());
    }
    ensure!(site.nodes[2].log().contains("was removed"), "{}", site.nodes[2].log());

    let clients = [site.client(&[1, 3]).await?, site.client(&[3, 1]).await?];
    let mut history = History::start(TOPIC, PARTITIONS, &clients, &clients[1]);
    history.wait_for_more(100).await?;
    site.add(1, dir.path())?;
    site.wait(1, |status| voters(status) == Some(vec![1, 2, 4, 5])).await?;
    let in_use = site.nodes[1].weir(&["cluster", "remove", "edge-1"]).expect(4);
    ensure!(in_use.stderr.contains("drain it first"), "{}", in_use.stderr);
    site.nodes[1].weir(&["cluster", "drain", "edge-1"]).expect(0);
    site.nodes[1].weir(&["cluster", "remove", "edge-1"]).expect(0);
    let ended = site.nodes[0].wait()?;
    ensure!(ended.code() == Some(4), "{ended}: {}", site.nodes[0].log());
    site.wait(1, three([2, 4, 5])).await.context("without node 1")?;
    history.wait_for_more(100).await.context("without node 1")?;
    let stored = history.finish(&clients[0]).await?;
    println!("{stored} records through replaced nodes");

    // Where node 4 is from now on is known everywhere, also to a node that was away.
    site.nodes[4].stop()?;
    site.nodes[3].stop()?;
    site.nodes[4].start_again()?;
    site.wait(1, |status| node(status, 5).is_some_and(|node| !node.fenced)).await?;
    site.move_to_another_port(1, 3, dir.path())?;
    site.wait(4, three([2, 4, 5])).await.context("at another address")?;
    client.close().await;
    for client in clients {
        client.close().await;
    }
    Ok(())
}

/// Another token, which differs in one digit.
fn altered(token: &str, at: usize) -> String {
    let mut token = token.to_owned();
    let digit = if &token[at..=at] == "0" { "1" } else { "0" };
    token.replace_range(at..=at, digit);
    token
}

/// Starts a node in `dir` that joins at an address with a token, and requires certificates.
fn join(dir: &Path, name: &str, at: &NodeProcess, token: &str) -> Result<NodeProcess> {
    let home = dir.join(name);
    std::fs::create_dir_all(&home)?;
    let config = dir.join("weir.toml");
    std::fs::write(&config, "[access]\nanonymous = []\n")?;
    let (config, listen) = (config.to_string_lossy().into_owned(), free_addresses(1)?[0]);
    let (listen, at) = (listen.to_string(), at.address().to_string());
    let arguments = ["--config", &config, "--listen", &listen, "--join", &at, "--token", token];
    NodeProcess::start_in(&home, &arguments, vec![("WEIR_NAME", name.into())])
}

/// Waits until so many nodes are there and vote, as the first one says.
fn wait_for_voters(node: &NodeProcess, voters: usize) -> Result<serde_json::Value> {
    let begun = Instant::now();
    loop {
        let status = node.weir(&["cluster", "status", "--json"]).expect(0).json();
        let nodes = status["nodes"].as_array().context("no nodes")?;
        let there = |node: &serde_json::Value| node["voter"] == true && node["fenced"] != true;
        if nodes.len() == voters && nodes.iter().all(there) {
            return Ok(status);
        }
        ensure!(begun.elapsed() < PATIENCE, "{status:#}\n{}", node.log());
        // sleep: between looks at another process, within a bound
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Goal: a token is all that a new machine needs, also where certificates are required and at a
/// node that cannot sign; it lets in one node, once, within its time, and tells the cluster from
/// others.
#[test]
fn nodes_join_with_tokens() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (dir, home) = (dir.path(), dir.path().join("edge-1"));
    std::fs::create_dir_all(&home)?;
    let config = dir.join("weir.toml");
    std::fs::write(&config, "[access]\nanonymous = []\n")?;
    let listen = free_addresses(1)?[0].to_string();
    let environment: Vec<(&'static str, PathBuf)> = vec![
        ("WEIR_NAME", "edge-1".into()),
        ("WEIR_CLUSTER_MEMBERS", format!("1=edge-1@{listen}").into()),
    ];
    let config = config.to_string_lossy().into_owned();
    let arguments = ["--config", config.as_str(), "--listen", listen.as_str()];
    let first = NodeProcess::start_in(&home, &arguments, environment)?;
    wait_for_voters(&first, 1)?;
    let token = |more: &[&str]| {
        let arguments = [&["cluster", "token"][..], more].concat();
        first.weir(&arguments).expect(0).stdout.trim().to_owned()
    };
    let one = token(&[]);
    let refused = |name: &str, at: &NodeProcess, token: &str, why: &str| -> Result<()> {
        let Err(error) = join(dir, name, at, token) else { bail!("{name} was let in: {why}") };
        let said = format!("{error:#}");
        ensure!(said.contains(why), "not `{why}`:\n{said}");
        Ok(())
    };
    refused("stranger", &first, &altered(&one, 30), "is not one of this cluster")?;
    refused("lost", &first, &altered(&one, one.len() - 1), "nothing was sent to it")?;
    let mut second = join(dir, "edge-2", &first, &one)?;
    wait_for_voters(&first, 2)?;
    refused("late", &first, &one, "the token was used by node 2")?;
    let brief = token(&["--valid", "1s"]);
    // sleep: until the token has ended
    std::thread::sleep(Duration::from_millis(1_200));
    refused("later", &first, &brief, "the token has ended")?;

    let witness = join(dir, "vote", &second, &token(&["--witness"]))?;
    let status = wait_for_voters(&first, 3)?;
    ensure!(status["nodes"][2]["witness"] == true, "{status:#}");
    let ended = second.stop()?;
    let said = second.log();
    ensure!(ended.success() && !said.contains("not all went in time"), "{ended}: {said}");
    second.start_again()?;
    wait_for_voters(&first, 3)?;
    ensure!(second.log().contains("--join is ignored"), "{}", second.log());
    first.weir(&["topic", "create", "pairs", "--replicas", "2"]).expect(0);
    let anonymous = TlsConfig::from_ca_file(second.ca());
    let config = ClientConfig::new(second.address().to_string(), anonymous);
    let runtime = tokio::runtime::Runtime::new()?;
    let listed = runtime.block_on(async {
        Client::connect(config).await?.admin().topics().await.map_err(anyhow::Error::from)
    });
    let said = listed.expect_err("no certificate was shown").to_string();
    ensure!(said.contains("requires a certificate"), "{said}");
    drop(witness);
    Ok(())
}
