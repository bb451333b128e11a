//! Samples of what members of consumer groups and their coordinator say.

use super::messages::{PARTITION, TOPIC, group_position};
use weir_core::group::{Generation, MemberId};
use weir_core::wire::message::{
    AssignedPartition, Assignment, GroupInfo, GroupMember, GroupMembers, GroupPosition, Request,
    Response,
};
use weir_core::{Offset, PartitionIndex};

const MEMBER: MemberId = MemberId(u64::MAX / 3);

/// Every kind of request.
pub fn requests() -> Vec<Request> {
    let group = || "dashboard".to_owned();
    let instance = || Some("display-2".to_owned());
    let (member, generation) = (MEMBER, Generation(7));
    let position = GroupPosition { since: Generation(6), ..group_position() };
    vec![
        Request::JoinGroup {
            group: group(),
            member,
            instance: instance(),
            session_ms: 10_000,
            topics: vec!["vehicles.gps".into(), "temps".into()],
        },
        Request::GroupHeartbeat {
            group: group(),
            member,
            instance: instance(),
            generation,
            holds: vec![(TOPIC, PARTITION)],
        },
        Request::LeaveGroup { group: group(), member },
        Request::GroupMembers { group: group() },
        Request::CommitPositions {
            group: group(),
            positions: vec![position],
            member: Some(member),
        },
        Request::GroupHeartbeat {
            group: group(),
            member,
            instance: None,
            generation,
            holds: vec![],
        },
    ]
}

/// Every kind of response.
pub fn responses() -> Vec<Response> {
    let at = |partition, position| AssignedPartition {
        topic: TOPIC,
        partition: PartitionIndex(partition),
        since: Generation(6),
        position,
    };
    let assigned = Assignment {
        generation: Generation(7),
        topics: vec![(TOPIC, "vehicles.gps".into())],
        partitions: vec![at(0, None), at(3, Some(Offset(i64::MAX / 2)))],
        pending: 2,
    };
    let member = GroupMember {
        member: MEMBER,
        instance: Some("display-2".into()),
        session_ms: 10_000,
        topics: vec!["vehicles.gps".into()],
        partitions: vec![(TOPIC, PARTITION)],
        pending: 1,
    };
    let members = GroupMembers { generation: Generation(7), members: vec![member] };
    let info = GroupInfo {
        name: "dashboard".into(),
        positions: 4,
        committed_at: super::TIME,
        members: 2,
        moving: 1,
    };
    vec![
        Response::Assigned(Box::new(assigned)),
        Response::Members(Box::new(members)),
        Response::Groups { groups: vec![info] },
    ]
}
