//! Every bound that more than one crate must agree on, and how the bounds relate.
//!
//! A limit is here or in a node's configuration, never inline. The relations between them are
//! asserted at compile time at the end of this file: break one and the build fails.

use std::time::Duration;

/// Bytes per KiB.
pub const KIB: usize = 1024;
/// Bytes per MiB.
pub const MIB: usize = 1024 * KIB;

// ---- records and batches ----

/// Largest record batch on the wire and on disk, header included, in bytes.
pub const BATCH_BYTES_MAX: usize = 4 * MIB;
/// Largest key plus value plus headers of one record, in bytes.
pub const RECORD_BYTES_MAX: usize = MIB;
/// Most records in one batch.
pub const BATCH_RECORDS_MAX: usize = 100_000;
/// Most headers on one record.
pub const RECORD_HEADERS_MAX: usize = 128;
/// Most bytes that a compressed batch may unpack to.
pub const BATCH_UNPACKED_BYTES_MAX: usize = 16 * MIB;

// ---- wire ----

/// Largest control message (CBOR), in bytes.
pub const CONTROL_BYTES_MAX: usize = MIB;
/// Largest frame of any kind on any stream, its header included, in bytes.
pub const FRAME_BYTES_MAX: usize = BATCH_BYTES_MAX + 64 * KIB;
/// How deeply nested a control message may be.
pub const CONTROL_DEPTH_MAX: usize = 32;
/// Longest time between the first byte of a control request and its last.
pub const REQUEST_READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time a client's first stream may take to say hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// A subscription that had nothing to send for this long sends its high watermark.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// A subscription whose filter kept nothing for this long says how far it is.
pub const FILTERED_INTERVAL: Duration = Duration::from_secs(1);
/// Longest time that whoever closes its socket answers what still arrives at closed connections.
pub const DRAIN_MAX: Duration = Duration::from_secs(1);
/// A connection that was silent for this long is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a side with open work sends a keep-alive on a silent connection.
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(8);

// ---- connections and streams ----

/// Most connections of one node.
pub const CONNECTIONS_MAX: usize = 1_024;
/// Most bidirectional streams a client may have open on one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 4_096;
/// Most subscriptions of one node.
pub const SUBSCRIPTIONS_MAX: usize = 16_384;
/// Receive window of one stream, in bytes: what a peer may send unread.
pub const STREAM_WINDOW_BYTES: usize = 4 * MIB;
/// What a node lets one connection send unread on all its streams together, in bytes.
pub const NODE_CONNECTION_WINDOW_BYTES: usize = 16 * MIB;
/// What a side keeps of sent but unacknowledged data per connection, in bytes.
pub const SEND_WINDOW_BYTES: usize = 16 * MIB;
/// Size of a UDP socket's send and receive buffers, in bytes.
pub const SOCKET_BUFFER_BYTES: usize = 4 * MIB;
/// Largest UDP payload that is tried. Larger ones hung when segments were offloaded in tens
/// (10 × 6,553 would pass 64 KiB).
pub const MTU_MAX: u16 = 6_500;
/// Initial UDP payload over loopback.
pub const MTU_LOOPBACK: u16 = 6_000;

// ---- topics ----

/// Longest topic, group, principal or header name, in bytes.
pub const NAME_BYTES_MAX: usize = 249;
/// Most partitions of one topic.
pub const TOPIC_PARTITIONS_MAX: u32 = 1_024;
/// Most partitions of one node.
pub const NODE_PARTITIONS_MAX: usize = 16_384;
/// Most topics of one node.
pub const NODE_TOPICS_MAX: usize = 4_096;

// ---- producers, groups and keyed state ----

/// Most idempotent producers remembered per partition; the longest silent is forgotten first.
pub const PRODUCERS_PER_PARTITION_MAX: usize = 1_024;
/// Batches remembered per producer, so that a retry of any of them is recognised. Also the most
/// batches a producer may have in flight per partition.
pub const PRODUCER_BATCHES_REMEMBERED: usize = 5;
/// Most consumer groups of one cluster.
pub const GROUPS_MAX: usize = 4_096;
/// Most members of a consumer group.
pub const GROUP_MEMBERS_MAX: usize = 256;
/// Most partitions that a consumer group divides. One member may get them all, so they fit the
/// streams of one connection.
pub const GROUP_SLOTS_MAX: usize = 4_096;
/// Most topics that one member subscribes to.
pub const GROUP_TOPICS_MAX: usize = 256;
/// Shortest time for which a member may be silent. It is heard of three times in that time.
pub const GROUP_SESSION_MIN: Duration = Duration::from_millis(500);
/// Longest time for which a member may be silent: its partitions wait as long if it died.
pub const GROUP_SESSION_MAX: Duration = Duration::from_secs(30 * 60);
/// How long a member may be silent unless it says; a default.
pub const GROUP_SESSION: Duration = Duration::from_secs(10);
/// Shortest pause between two heartbeats of a member, unless it has something to say.
pub const GROUP_HEARTBEAT_MIN: Duration = Duration::from_millis(100);
/// Most keyed state that one partition may hold in memory, keys and values, in bytes.
pub const STATE_BYTES_MAX: usize = 16 * MIB;
/// Longest key of keyed state, in bytes.
pub const STATE_KEY_BYTES_MAX: usize = 4 * KIB;
/// Longest value of keyed state, in bytes.
pub const STATE_VALUE_BYTES_MAX: usize = 256 * KIB;

// ---- modules ----

/// Largest module, in bytes: a JavaScript engine with its module takes 12 MiB.
pub const MODULE_BYTES_MAX: usize = 24 * MIB;
/// Most module versions of one node.
pub const NODE_MODULES_MAX: usize = 1_024;
/// Largest part of an upload, in bytes.
pub const UPLOAD_PART_BYTES_MAX: usize = 256 * KIB;
/// Longest time that compiling a module may take, in CPU time. Whoever pushes one waits for it.
pub const COMPILE_TIME_MAX: Duration = Duration::from_secs(60);
/// Most uploads that are not finished; the oldest is dropped for another.
pub const UPLOADS_MAX: usize = 8;
/// Most bytes of a module's parameters, names and values.
pub const MODULE_PARAMS_BYTES_MAX: usize = 64 * KIB;
/// Longest key of a module's state or of a timer, in bytes. The node puts its own prefix before it.
pub const MODULE_KEY_BYTES_MAX: usize = STATE_KEY_BYTES_MAX - 64;
/// Most batches that wait in one partition for the module that checks them.
pub const CHECK_QUEUE_MAX: usize = 256;
/// Most bytes of batches that do; one batch always fits.
pub const CHECK_QUEUE_BYTES_MAX: usize = 8 * MIB;
/// Most batches that are with modules which check what is produced, each with what becomes of it.
pub const CHECKS_AT_WORK_MAX: usize = 8;
/// Most of them of one topic.
pub const TOPIC_CHECKS_AT_WORK_MAX: usize = 2;
/// A module that checks a partition is let go when it had nothing to do for this long.
pub const CHECK_IDLE: Duration = Duration::from_secs(30);
/// Most reasons that a producer is told of, of records that a check rejected.
pub const CHECK_REASONS_MAX: usize = 5;
/// Longest such reason, in bytes.
pub const CHECK_REASON_BYTES_MAX: usize = 256;

// ---- deployments ----

/// Longest name of a deployment, in bytes: topics are named after it.
pub const DEPLOYMENT_NAME_BYTES_MAX: usize = 200;
/// Most deployments of one node.
pub const NODE_DEPLOYMENTS_MAX: usize = 256;
/// Most input partitions of all deployments of one node together.
pub const NODE_LANES_MAX: usize = 4_096;
/// Most output topics of one deployment.
pub const DEPLOYMENT_OUTPUTS_MAX: usize = 16;
/// Most keyed state of one deployment for one input partition, keys and values, in bytes. The rest
/// of what a partition may hold is for the marks of deployments that write to it.
pub const LANE_STATE_BYTES_MAX: usize = STATE_BYTES_MAX - MIB;
/// A page of such a snapshot, as a client is given it, has about so many bytes.
pub const SNAPSHOT_PAGE_BYTES: usize = 256 * KIB;
/// Most entries of an output partition that a client is told of at once.
pub const LANE_OUTPUTS_PAGE_MAX: usize = 4_096;
/// Snapshots of a lane's state that are kept, from when other versions took over.
pub const LANE_SNAPSHOTS_MAX: usize = 2;
/// Most keyed state of all deployments of one node together, in bytes.
pub const NODE_LANE_STATE_BYTES_MAX: usize = 256 * MIB;
/// Most lanes that hold an input batch and what becomes of it in memory; the others wait.
pub const LANES_AT_WORK_MAX: usize = 16;
/// Most lanes of one deployment that do.
pub const DEPLOYMENT_AT_WORK_MAX: usize = 2;
/// The same for lanes of consumers that may send requests over HTTP: they wait for others, and must
/// not take the turns of those that do not.
pub const HTTP_LANES_AT_WORK_MAX: usize = 32;
/// How far ahead of the node's clock an event time counts for a deployment's watermark, in
/// milliseconds: one wrong date of a receiver must not end all windows for ever.
pub const EVENT_TIME_AHEAD_MS: i64 = 3_600_000;
/// Largest CPU budget of one deployment on one node, in percent of one core.
pub const DEPLOYMENT_CPU_PERCENT_MAX: u32 = 6_400;
/// A deployment that did not use its CPU budget for a while may make up for this much of that time.
pub const DEPLOYMENT_CPU_WINDOW: Duration = Duration::from_secs(1);
/// A lane makes one entry of the outputs of several input batches, up to about so many bytes.
pub const LANE_ENTRY_BYTES: usize = MIB;
/// What a distributor reads from an outbox at a time, in bytes; one entry always fits.
pub const OUTBOX_CHUNK_BYTES: usize = MIB;
/// An outbox keeps at most about this much that every destination has, in bytes.
pub const OUTBOX_TRIM_BYTES: usize = 4 * MIB;
/// A lane whose inputs yield nothing stores its position this often.
pub const LANE_POSITION_INTERVAL: Duration = Duration::from_secs(1);
/// Shortest and longest pause before a lane or distributor tries again.
pub const LANE_RETRY_MIN: Duration = Duration::from_millis(100);
/// See [`LANE_RETRY_MIN`].
pub const LANE_RETRY_MAX: Duration = Duration::from_secs(30);
/// Most lines of its modules' log that a node keeps for one deployment.
pub const DEPLOYMENT_LOG_LINES_MAX: usize = 1_000;
/// Most lines of one deployment that wait to be appended to its log topic; more are dropped and
/// counted.
pub const LOG_TOPIC_QUEUE_LINES_MAX: usize = 1_000;
/// Most lines that are appended to a log topic at once. What a module logs in one line is at most
/// 4 KiB, so all of them fit a batch.
pub const LOG_TOPIC_BATCH_LINES_MAX: usize = 256;
/// Most bytes of those lines.
pub const DEPLOYMENT_LOG_BYTES_MAX: usize = 128 * KIB;
/// Most hosts that a consumer may be allowed to send requests to.
pub const HTTP_HOSTS_MAX: usize = 64;
/// How long one request of a consumer may take unless its deployment says, in milliseconds.
pub const HTTP_TIMEOUT_MS_DEFAULT: u32 = 10_000;
/// Most that a deployment may say, in milliseconds.
pub const HTTP_TIMEOUT_MS_MAX: u32 = 60_000;
/// Most bytes of certificates that a deployment may bring along.
pub const HTTP_CA_BYTES_MAX: usize = 256 * KIB;
/// A consumer that may send requests is given at most so many records at once: what fails in the
/// middle is done again.
pub const HTTP_RECORDS_PER_CALL: usize = 16;

// ---- replication ----

/// Most nodes of a cluster.
pub const CLUSTER_NODES_MAX: usize = 64;
/// Most replicas of a partition, those that a reassignment adds included.
pub const REPLICAS_MAX: usize = 16;
/// Most rows of its epoch history that a follower sends at once; the newest. If the leader knows
/// none of them, the follower cuts them off and sends those before.
pub const FOLLOW_EPOCHS_MAX: usize = 64;
/// A follower that was behind its leader for this long leaves the in-sync set; a default.
pub const REPLICA_LAG_MAX: Duration = Duration::from_secs(2);
/// How long a leader or follower waits for an answer before it asks again.
pub const REPLICA_RETRY: Duration = Duration::from_millis(250);
/// A node that the controller did not hear of for this long is fenced; a default.
pub const SESSION_TIMEOUT: Duration = Duration::from_millis(750);
/// Partitions whose copies are moved at a time, when nodes are drained or the cluster is
/// rebalanced.
pub const MOVES_AT_ONCE: usize = 8;
/// Copies of the partition that holds the groups' positions, where there are as many nodes.
pub const GROUPS_REPLICAS: usize = 3;

// ---- controllers ----

/// How often the leading controller makes itself heard; a default. In between it looks at nothing,
/// so that it is heard at most half as late again.
pub const CONTROLLER_HEARTBEAT: Duration = Duration::from_millis(150);
/// How long the leading controller may be silent before others elect one; a default.
pub const CONTROLLER_ELECTION: Duration = Duration::from_millis(750);
/// Most controllers, which is most nodes of a site.
pub const CONTROLLERS_MAX: usize = 5;
/// Tokens that let new nodes in and have not ended, at a time.
pub const JOIN_TOKENS_MAX: usize = 16;
/// Longest that a token may be valid.
pub const JOIN_TOKEN_VALID_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Nodes without a certificate that are at the door at a time; each has [`JOIN_TIMEOUT`].
pub const JOINS_AT_ONCE: usize = 8;
/// How long a node that joins may take.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Wrong tokens a minute, after which a node listens to no more for the rest of it.
pub const JOIN_FAILURES_A_MINUTE: u32 = 20;
/// Largest command, in bytes of CBOR: what fits a control message, with what is around it.
pub const COMMAND_BYTES_MAX: usize = CONTROL_BYTES_MAX + 64 * KIB;
/// A message between controllers holds about this much of the log, or one command, in bytes.
pub const CONTROLLER_BATCH_BYTES: usize = 256 * KIB;
/// Largest message between controllers, in bytes.
pub const CONTROLLER_MESSAGE_BYTES_MAX: usize = COMMAND_BYTES_MAX + 2 * CONTROLLER_BATCH_BYTES;
/// Largest part of a snapshot in one message, and in one row on disk, in bytes.
pub const SNAPSHOT_PART_BYTES: usize = 256 * KIB;
/// Largest snapshot of the metadata, in bytes.
pub const SNAPSHOT_BYTES_MAX: usize = 64 * MIB;
/// Commands after which a controller takes a snapshot. As many again stay in its log, for others
/// that were away for a moment.
pub const SNAPSHOT_COMMANDS: u64 = 1_024;
/// Bytes of log after which a controller takes a snapshot and keeps none of them.
pub const CONTROLLER_LOG_BYTES: u64 = 16 * MIB as u64;
/// Commands that wait at one controller to be decided, in bytes; each counts as a KiB at least.
pub const SUBMIT_BUDGET_BYTES: usize = 16 * MIB;
/// How long a command may take to be decided before its fate counts as unknown.
pub const SUBMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most producer ids that one command sets aside.
pub const PRODUCER_IDS_MAX: u32 = 100_000;

/// How long a leader lets a follower wait for a word when there is nothing to push.
pub const FOLLOW_HEARTBEAT: Duration = Duration::from_millis(500);
/// A follower that heard nothing from its leader for this long asks again.
pub const FOLLOW_SILENCE: Duration = Duration::from_secs(2);
/// A node that knows of no leading controller for this long sends its clients to other nodes.
pub const CUT_OFF_AFTER: Duration = Duration::from_secs(2);
/// How long a follower waits for each part of a snapshot.
pub const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(20);
/// An encoded view of a partition, at most: keyed state, producers and epochs, generously.
pub const VIEW_BYTES_MAX: usize = STATE_BYTES_MAX + 48 * MIB;
/// Snapshots that a node takes at a time, and that it sends at a time.
pub const SNAPSHOTS_AT_ONCE: usize = 2;
/// Replicas' streams that one connection between nodes is made for; more share its window.
pub const FOLLOW_STREAMS: usize = 64;
/// How long an answer of another node's controller is waited for.
pub const CONTROLLER_CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an answer is waited for that another node gives to a client of this one. Longer than a
/// disk may stall, shorter than clients are patient.
pub const FORWARD_TIMEOUT: Duration = Duration::from_secs(10);

// ---- memory of a node, defaults ----

/// Recent batches kept in memory for subscribers at the tail, all partitions together, in bytes.
pub const TAIL_CACHE_BYTES: usize = 32 * MIB;
/// Produced batches that are received but not yet durable, all clients together, in bytes.
pub const PRODUCE_BUDGET_BYTES: usize = 32 * MIB;
/// Batches read from disk and not yet offered to QUIC, all subscriptions together, in bytes.
pub const FETCH_BUDGET_BYTES: usize = 32 * MIB;
/// Most large compressed batches that are unpacked at once to be checked; each may take
/// [`BATCH_UNPACKED_BYTES_MAX`] while it is.
pub const VALIDATIONS_MAX: usize = 2;
/// Batches that wait in memory for subscribers that do not read, all of them together, in bytes.
/// What does not fit is forgotten and read again.
pub const SLOW_BUDGET_BYTES: usize = 16 * MIB;
/// How often a node looks for damaged log files that other nodes can help with.
pub const MEND_INTERVAL: Duration = Duration::from_secs(10);
/// The longest pause after a file could not be written anew.
pub const MEND_PAUSE_MAX: Duration = Duration::from_secs(10 * 60);
/// Longest time that batches wait in memory for one subscriber.
pub const SLOW_HOLD: Duration = Duration::from_secs(1);
/// What one read of a subscription takes from the log at most (one batch always fits), in bytes.
pub const FETCH_CHUNK_BYTES: usize = MIB;

// ---- storage ----

/// Most bytes of entries that one commit takes; one entry always fits.
pub const COMMIT_BYTES_MAX: usize = 4 * MIB;
/// How long a small append of a producer that trickles among others waits for theirs, to share one
/// commit; a default. Shorter than the 25 ms for which QUIC holds back a bare acknowledgement, so
/// that it still rides on the answer.
pub const TRICKLE_LINGER: Duration = Duration::from_millis(20);
/// Most appends that wait for one shard's writer.
pub const APPEND_QUEUE_MAX: usize = 16_384;

const _: () = {
    // A record always fits a batch, a batch a frame, an entry a commit.
    assert!(RECORD_BYTES_MAX + 64 * KIB <= BATCH_BYTES_MAX);
    assert!(BATCH_BYTES_MAX < FRAME_BYTES_MAX);
    assert!(BATCH_BYTES_MAX <= BATCH_UNPACKED_BYTES_MAX);
    // The largest batch always fits every budget it must pass, or it would wait for ever.
    assert!(BATCH_BYTES_MAX <= PRODUCE_BUDGET_BYTES);
    assert!(BATCH_BYTES_MAX <= FETCH_BUDGET_BYTES);
    assert!(FETCH_CHUNK_BYTES <= BATCH_BYTES_MAX);
    assert!(BATCH_BYTES_MAX <= COMMIT_BYTES_MAX);
    assert!(BATCH_BYTES_MAX <= CHECK_QUEUE_BYTES_MAX);
    // One stream cannot use up its connection: four unread ones leave nothing, so clients put
    // subscriptions on a connection of their own (see `docs/wire.md`, flow control).
    assert!(STREAM_WINDOW_BYTES * 4 <= NODE_CONNECTION_WINDOW_BYTES);
    // A mark takes less than 64 bytes, and each lane may have one in a partition.
    assert!(NODE_LANES_MAX * 64 + LANE_STATE_BYTES_MAX <= STATE_BYTES_MAX);
    assert!(LANE_ENTRY_BYTES <= BATCH_BYTES_MAX);
    // All lines that are kept fit an answer, with what is around each.
    assert!(DEPLOYMENT_LOG_BYTES_MAX + 128 * DEPLOYMENT_LOG_LINES_MAX <= CONTROL_BYTES_MAX);
    // A page of a snapshot fits a control message: one entry does not count, so that any fits.
    assert!(2 * SNAPSHOT_PAGE_BYTES + STATE_KEY_BYTES_MAX < CONTROL_BYTES_MAX);
    assert!(32 * LANE_OUTPUTS_PAGE_MAX < CONTROL_BYTES_MAX);
    // A part of an upload fits a control message.
    assert!(UPLOAD_PART_BYTES_MAX * 2 <= CONTROL_BYTES_MAX);
    assert!(MTU_LOOPBACK <= MTU_MAX);
    // A follower may lose several messages in a row before it counts as behind, and a node may
    // answer late before it counts as dead.
    assert!(REPLICA_RETRY.as_millis() * 4 <= REPLICA_LAG_MAX.as_millis());
    // A node answers every heartbeat, which may be half as late again; two may be lost.
    assert!(CONTROLLER_HEARTBEAT.as_millis() * 3 / 2 * 3 <= SESSION_TIMEOUT.as_millis());
    // So may two that tell that the leading controller is there.
    assert!(CONTROLLER_HEARTBEAT.as_millis() * 3 / 2 * 3 <= CONTROLLER_ELECTION.as_millis());
    // A command that nobody else's bytes fit beside still fits a message.
    assert!(COMMAND_BYTES_MAX + CONTROLLER_BATCH_BYTES <= CONTROLLER_MESSAGE_BYTES_MAX);
    assert!(SNAPSHOT_PART_BYTES + CONTROLLER_BATCH_BYTES <= CONTROLLER_MESSAGE_BYTES_MAX);
    assert!(COMMAND_BYTES_MAX as u64 * 4 <= CONTROLLER_LOG_BYTES);
    assert!(COMMAND_BYTES_MAX <= SUBMIT_BUDGET_BYTES);
    assert!(GROUPS_REPLICAS <= REPLICAS_MAX);
    assert!(GROUP_SLOTS_MAX <= STREAMS_PER_CONNECTION_MAX as usize);
    // All that a member is told, or says that it holds, fits a control message: topics by name, and
    // at most 64 bytes for each partition.
    assert!(GROUP_SLOTS_MAX * 64 + GROUP_TOPICS_MAX * 2 * NAME_BYTES_MAX <= CONTROL_BYTES_MAX);
    // A list of partitions fits a value of keyed state, 12 bytes for each run of them.
    assert!(GROUP_SLOTS_MAX * 12 <= STATE_VALUE_BYTES_MAX);
    // Two heartbeats may be lost.
    assert!(GROUP_HEARTBEAT_MIN.as_millis() * 3 <= GROUP_SESSION_MIN.as_millis());
    assert!(GROUP_SESSION_MIN.as_millis() <= GROUP_SESSION.as_millis());
    assert!(GROUP_SESSION.as_millis() <= GROUP_SESSION_MAX.as_millis());
    // A node of a cluster that dies is replaced well before members count as silent.
    assert!(SESSION_TIMEOUT.as_millis() * 4 <= GROUP_SESSION.as_millis());
    assert!(REPLICAS_MAX <= CLUSTER_NODES_MAX);
    assert!(FOLLOW_HEARTBEAT.as_millis() * 4 <= FOLLOW_SILENCE.as_millis());
    assert!(FOLLOW_HEARTBEAT.as_millis() * 4 <= REPLICA_LAG_MAX.as_millis());
    assert!(FOLLOW_STREAMS <= STREAMS_PER_CONNECTION_MAX as usize);
    // Two keep-alives may be lost before a connection counts as idle.
    assert!(KEEP_ALIVE_INTERVAL.as_millis() * 3 <= IDLE_TIMEOUT.as_millis());
    assert!(HEARTBEAT_INTERVAL.as_millis() * 2 <= IDLE_TIMEOUT.as_millis());
};
