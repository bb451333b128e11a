//! Consumer groups on a real node: members share partitions, take over from each other, and are
//! fenced when they are gone.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use weir_client::{
    Client, ConsumerBuilder, ErrorCode, GroupPosition, Offset, PartitionIndex, ProducerRecord,
    Request, RequestError, Response, StartAt, TimestampMs, TopicConfig, TopicId,
};
use weir_core::group::{Generation, MemberId};
use weir_core::wire::message::Assignment;
use weir_tests::members::{Again, Feed, Sight, Sights, Worker};
use weir_tests::node_process::{NodeProcess, weir_command};

const TOPIC: &str = "readings";
const GROUP: &str = "dashboard";
const PARTITIONS: u32 = 6;
/// What does not come about in this time fails.
const PATIENCE: Duration = Duration::from_secs(60);

struct Setup {
    _dir: tempfile::TempDir,
    node: NodeProcess,
    client: Client,
    topic: TopicId,
}

impl Setup {
    async fn new() -> Result<Setup> {
        let dir = tempfile::tempdir()?;
        let node = NodeProcess::start(dir.path())?;
        let client = node.client().await?;
        let config = TopicConfig { partitions: PARTITIONS, ..TopicConfig::default() };
        let topic = client.admin().create_topic(TOPIC, config).await?.id;
        Ok(Setup { _dir: dir, node, client, topic })
    }

    /// A member that is soon told of changes, but not soon taken for dead.
    fn member(&self) -> ConsumerBuilder {
        let builder = self.client.consumer().group(GROUP);
        builder
            .auto_commit(Some(Duration::from_millis(100)))
            .session_timeout(Duration::from_secs(6))
    }

    fn position(&self, partition: u32, offset: i64, since: Generation) -> GroupPosition {
        GroupPosition {
            topic: self.topic,
            partition: PartitionIndex(partition),
            offset: Offset(offset),
            committed_at: TimestampMs(0),
            since,
        }
    }

    async fn commit(
        &self,
        member: Option<MemberId>,
        position: GroupPosition,
    ) -> Result<Option<ErrorCode>> {
        let positions = vec![position];
        let request = Request::CommitPositions { group: GROUP.to_owned(), positions, member };
        Ok(refusal(self.client.request(&request).await)?)
    }

    async fn join(&self, member: MemberId, session_ms: u32) -> Result<Assignment> {
        let (group, instance) = (GROUP.to_owned(), None);
        let topics = vec![TOPIC.to_owned()];
        assigned(&self.client, &Request::JoinGroup { group, member, instance, session_ms, topics })
            .await
    }

    /// A sign of life of a member that holds `holds` of what it was given last.
    async fn beat(&self, member: MemberId, last: &Assignment, holds: usize) -> Result<Assignment> {
        let holds = last.partitions.iter().take(holds).map(|at| (at.topic, at.partition)).collect();
        let (group, instance, generation) = (GROUP.to_owned(), None, last.generation);
        let beat = Request::GroupHeartbeat { group, member, instance, generation, holds };
        assigned(&self.client, &beat).await
    }

    async fn members(&self) -> Result<usize> {
        Ok(self.client.admin().group_members(GROUP).await?.members.len())
    }

    async fn wait_for_members(&self, count: usize) -> Result<()> {
        let begun = Instant::now();
        loop {
            let members = self.members().await?;
            if members == count {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "there are {members} members, not {count}");
            // sleep: between looks at another process, within a bound
            sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn assigned(client: &Client, request: &Request) -> Result<Assignment> {
    match client.request(request).await? {
        Response::Assigned(assigned) => Ok(*assigned),
        other => anyhow::bail!("{other:?}"),
    }
}

/// The code that something was refused with, if it was.
fn refusal(result: Result<Response, RequestError>) -> Result<Option<ErrorCode>, RequestError> {
    match result {
        Ok(_) => Ok(None),
        Err(error) => error.code().map(Some).ok_or(error),
    }
}

/// Goal: members share the partitions evenly; who joins or leaves moves only what must move; and
/// while all of that happens each record is seen once, in order. What an operator sees and may do
/// meanwhile is so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_moves_only_what_must_move() -> Result<()> {
    let setup = Setup::new().await?;
    let feed = Feed::start(&setup.client, TOPIC, PARTITIONS);
    let sights = Arc::<Sights>::default();
    let mut first = Worker::start(setup.member(), TOPIC, 1, &sights).await?;
    first.wait_for(6).await?;
    let mut second = Worker::start(setup.member(), TOPIC, 2, &sights).await?;
    let (one, two) = (first.wait_for(3).await?, second.wait_for(3).await?);
    ensure!(one.is_disjoint(&two), "{one:?} {two:?}");
    let mut third = Worker::start(setup.member(), TOPIC, 3, &sights).await?;
    third.wait_for(2).await?;
    let (one_now, two_now) = (first.partitions(), second.partitions());
    ensure!(one_now.len() == 2 && one_now.is_subset(&one), "{one:?} became {one_now:?}");
    ensure!(two_now.len() == 2 && two_now.is_subset(&two), "{two:?} became {two_now:?}");

    let listed = setup.node.weir(&["group", "list", "--json"]).expect(0).json();
    ensure!(
        (&listed[0]["members"], &listed[0]["state"]) == (&3.into(), &"stable".into()),
        "{listed}"
    );
    let shown = setup.node.weir(&["group", "describe", GROUP, "--json"]).expect(0).json();
    ensure!(shown["members"].as_array().is_some_and(|all| all.len() == 3), "{shown}");
    ensure!(shown["positions"].as_array().is_some_and(|all| all.len() == 6), "{shown}");
    let shown = setup.node.weir(&["group", "describe", GROUP]).expect(0).stdout;
    ensure!(shown.contains("INSTANCE") && shown.contains("LAG"), "{shown}");
    let reset = ["group", "reset", GROUP, "--topic", TOPIC, "--to", "latest"];
    setup.node.weir(&[&reset[..], &["--dry-run"]].concat()).expect(0);
    for refused in [&reset[..], &["group", "delete", GROUP]] {
        let refused = setup.node.weir(refused).expect(4);
        ensure!(refused.stderr.contains("members"), "{}", refused.stderr);
    }

    first.close().await?;
    second.wait_for(3).await?;
    third.wait_for(3).await?;
    let ends = feed.stop().await?;
    sights.wait_for(&ends).await?;
    second.close().await?;
    third.close().await?;
    ensure!(setup.members().await? == 0, "they have left");
    sights.check(Again::Never)?;
    // All that was seen is stored.
    for stored in setup.client.admin().group(GROUP).await? {
        ensure!(stored.offset.0 == ends[&stored.partition.0], "{stored:?} {ends:?}");
    }
    setup.node.weir(&reset).expect(0);
    setup.node.weir(&["group", "delete", GROUP]).expect(0);
    Ok(())
}

/// Goal: where a process of the command line is killed, others go on within its session, and
/// nothing is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_taken_over() -> Result<()> {
    let setup = Setup::new().await?;
    let feed = Feed::start(&setup.client, TOPIC, PARTITIONS);
    let sights = Arc::<Sights>::default();
    let mut child = weir_command()
        .args(["consume", TOPIC, "--group", GROUP, "--session-timeout", "5s", "--format", "json"])
        .arg("--data-dir")
        .arg(setup.node.data_dir())
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = child.stdout.take().context("piped")?;
    let seen = sights.clone();
    let reading = std::thread::spawn(move || -> Result<()> {
        for line in BufReader::new(stdout).lines() {
            // What was cut off by the kill was not seen.
            let Ok(row) = serde_json::from_str::<serde_json::Value>(&line?) else { break };
            let partition = row["partition"].as_u64().context("a partition")? as u32;
            let offset = row["offset"].as_i64().context("an offset")?;
            seen.add([Sight { member: 1, partition, offset }]);
        }
        Ok(())
    });
    sights.wait_for_member(1).await?;
    let mut worker = Worker::start(setup.member(), TOPIC, 2, &sights).await?;
    worker.wait_for(3).await?;
    child.kill()?;
    child.wait()?;
    reading.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    worker.wait_for(6).await?;
    let ends = feed.stop().await?;
    sights.wait_for(&ends).await?;
    worker.close().await?;
    sights.check(Again::AfterCrashes)
}

/// Goal: a member that comes back under its instance name has its partitions again at once, and
/// nothing else moves; the one that it replaced is told so, and stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_comes_back() -> Result<()> {
    let setup = Setup::new().await?;
    let feed = Feed::start(&setup.client, TOPIC, PARTITIONS);
    let sights = Arc::<Sights>::default();
    let named = |name: &str| {
        // So long that nothing here happens because it is over.
        setup.member().instance(name).session_timeout(Duration::from_secs(600))
    };
    let quick = || setup.member().instance("b");
    let mut first = Worker::start(named("a"), TOPIC, 1, &sights).await?;
    first.wait_for(6).await?;
    first.kill();
    // A fresh process, which knows nothing of the one before.
    let mut first = Worker::start(setup.member().instance("a"), TOPIC, 2, &sights).await?;
    first.wait_for(6).await?;
    let mut second = Worker::start(quick(), TOPIC, 3, &sights).await?;
    let (one, two) = (first.wait_for(3).await?, second.wait_for(3).await?);
    first.kill();
    let mut first = Worker::start(setup.member().instance("a"), TOPIC, 4, &sights).await?;
    ensure!(first.wait_for(3).await? == one, "it has other partitions than before");
    ensure!(second.partitions() == two, "something moved");
    ensure!(setup.members().await? == 2, "there are more members than instances");

    let mut other = Worker::start(quick(), TOPIC, 5, &sights).await?;
    ensure!(other.wait_for(3).await? == two, "it takes over what the instance had");
    let failure = second.failure().await?;
    ensure!(failure.to_string().contains("another process has joined"), "{failure}");
    let ends = feed.stop().await?;
    sights.wait_for(&ends).await?;
    first.close().await?;
    other.close().await?;
    sights.check(Again::AfterCrashes)
}

/// Goal: positions come only from the owner, under the generation in which it came to own the
/// partition, and only forward; from nobody else while there are members; and whoever was silent
/// for a session is none. Method: requests as a client makes them, over QUIC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_member_stores_nothing() -> Result<()> {
    let setup = Setup::new().await?;
    let (one, two) = (MemberId(1), MemberId(2));
    setup.join(one, 60_000).await?;
    let held = setup.join(one, 60_000).await?;
    let held = setup.beat(one, &held, 0).await?;
    ensure!(held.partitions.len() == 6 && held.pending == 0, "{held:?}");
    let since = held.partitions[0].since;
    ensure!(setup.commit(Some(one), setup.position(0, 10, since)).await?.is_none());
    let back = setup.commit(Some(one), setup.position(0, 9, since)).await?;
    ensure!(back == Some(ErrorCode::WentBack), "{back:?}");
    let nobody = setup.commit(None, setup.position(0, 20, Generation(0))).await?;
    ensure!(nobody == Some(ErrorCode::GroupActive), "{nobody:?}");

    let joined = setup.join(two, 3_000).await?;
    ensure!(joined.partitions.is_empty() && joined.pending == 3, "{joined:?}");
    let told = setup.beat(one, &held, 6).await?;
    ensure!(told.partitions.len() == 3, "{told:?}");
    let given = setup.beat(two, &joined, 0).await?;
    ensure!(given.partitions.is_empty(), "the other has not let go: {given:?}");
    setup.beat(one, &told, 3).await?;
    let given = setup.beat(two, &joined, 0).await?;
    ensure!(given.partitions.len() == 3, "{given:?}");
    let lost = given.partitions[0];
    let fenced = setup.commit(Some(one), setup.position(lost.partition.0, 50, since)).await?;
    ensure!(fenced == Some(ErrorCode::NotOwner), "{fenced:?}");

    // The second one says nothing more.
    setup.wait_for_members(1).await?;
    let gone = setup.commit(Some(two), setup.position(lost.partition.0, 60, lost.since)).await?;
    ensure!(gone == Some(ErrorCode::UnknownMember), "{gone:?}");
    let again = setup.beat(one, &told, 3).await?;
    let again = setup.beat(one, &again, 3).await?;
    ensure!(again.partitions.len() == 6, "{again:?}");
    let old = setup.commit(Some(one), setup.position(lost.partition.0, 50, since)).await?;
    ensure!(old == Some(ErrorCode::NotOwner), "of the generation before: {old:?}");
    let stored = setup.client.admin().group(GROUP).await?;
    ensure!(stored.len() == 1 && stored[0].offset == Offset(10), "{stored:?}");
    Ok(())
}

/// Goal: members of a node that is killed and comes back are members still, with what they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_outlives_its_node() -> Result<()> {
    let mut setup = Setup::new().await?;
    let held = setup.join(MemberId(7), 60_000).await?;
    let held = setup.beat(MemberId(7), &held, 0).await?;
    let since = held.partitions[0].since;
    ensure!(setup.commit(Some(MemberId(7)), setup.position(3, 10, since)).await?.is_none());
    setup.node.kill()?;
    setup.node.start_again()?;
    setup.client = setup.node.client().await?;
    let after = setup.beat(MemberId(7), &held, 6).await?;
    ensure!(after.generation == held.generation, "{after:?} was {held:?}");
    let at = after.partitions.iter().find(|at| at.partition == PartitionIndex(3));
    ensure!(at.is_some_and(|at| at.since == since && at.position == Some(Offset(10))), "{at:?}");
    ensure!(after.partitions.len() == 6, "{after:?}");
    Ok(())
}

/// Goal: topics grow, go and come back under members, who follow without being told what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_change_under_members() -> Result<()> {
    let setup = Setup::new().await?;
    let sights = Arc::<Sights>::default();
    let mut worker = Worker::start(setup.member(), TOPIC, 1, &sights).await?;
    worker.wait_for(6).await?;
    setup.node.weir(&["topic", "alter", TOPIC, "--partitions=8"]).expect(0);
    worker.wait_for(8).await?;
    // One that has not looked at the topic before.
    let client = setup.node.client().await?;
    let producer = client.producer().build().await?;
    producer.send(ProducerRecord::new(TOPIC, "x").with_partition(7)).await?.await?;
    sights.wait_for(&[(7, 1)].into()).await?;
    worker.close().await?;
    sights.check(Again::Never)?;

    ensure!(!setup.client.admin().group(GROUP).await?.is_empty(), "a position is stored");
    setup.client.admin().delete_topic(TOPIC).await?;
    ensure!(setup.client.admin().group(GROUP).await?.is_empty(), "it went with the topic");
    Ok(())
}

/// Goal: where a member without a position begins at the end, that beginning is stored before
/// anything is handed out: another that takes over leaves nothing out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_beginning_is_stored() -> Result<()> {
    let setup = Setup::new().await?;
    let producer = setup.client.producer().build().await?;
    for _ in 0..3 {
        producer.send(ProducerRecord::new(TOPIC, "before").with_partition(0)).await?.await?;
    }
    let latest = || setup.member().auto_commit(None).begin_at(StartAt::Latest);
    let mut consumer = latest().subscribe(&[TOPIC]).await?;
    let asked = tokio::time::timeout(Duration::from_millis(10), consumer.next_batch()).await;
    ensure!(asked.is_err(), "there is nothing behind the end");
    let begun = Instant::now();
    while setup.client.admin().group(GROUP).await?.len() < 6 {
        ensure!(begun.elapsed() < PATIENCE, "beginnings are not stored");
        // sleep: between looks at another process, within a bound
        sleep(Duration::from_millis(20)).await;
    }
    consumer.close().await?;
    producer.send(ProducerRecord::new(TOPIC, "after").with_partition(0)).await?.await?;
    let mut consumer = latest().subscribe(&[TOPIC]).await?;
    let batch = consumer.next_batch().await?.context("a batch")?;
    ensure!(batch.first_offset() == Offset(3), "it begins at {}", batch.first_offset());
    consumer.commit().await?;
    consumer.close().await?;
    Ok(())
}
