//! What groups have to do with topics: members subscribe by name, and topics come, grow and go.

use super::Led;
use crate::registry::Registry;
use std::collections::{BTreeMap, BTreeSet};
use weir_core::deploy::is_internal;
use weir_core::group::{Group, GroupAsk, Slot};
use weir_core::metadata::Image;
use weir_core::{PartitionIndex, TopicId};

/// The partitions of these topics, as far as they exist.
pub(super) fn partitions_of(image: &Image, topics: &BTreeSet<String>) -> BTreeSet<Slot> {
    let known = topics.iter().filter(|name| !is_internal(name));
    let known = known.filter_map(|name| image.topic(name));
    let of = |topic: &weir_core::metadata::Topic| {
        let id = topic.id;
        (0..topic.partitions.len() as u32).map(move |at| (id, PartitionIndex(at)))
    };
    known.flat_map(of).collect()
}

/// The names of these topics.
pub(super) fn names(image: &Image, ids: &BTreeSet<TopicId>) -> Vec<(TopicId, String)> {
    let known = image.topics().filter(|topic| ids.contains(&topic.id));
    known.map(|topic| (topic.id, topic.name.clone())).collect()
}

/// What topics ask of a group as they are now.
fn asks(image: &Image, live: &BTreeSet<TopicId>, group: &Group) -> [GroupAsk; 2] {
    let wants = group.members().iter();
    let wants: BTreeMap<_, _> =
        wants.map(|(&id, member)| (id, partitions_of(image, &member.topics))).collect();
    // An image may be older than the groups: an id that it has not given out is of a newer one.
    let (next, _) = image.counters();
    let gone = |slot: &&Slot| slot.0.0 < next && !live.contains(&slot.0);
    let slots = group.positions().keys().filter(gone).copied().collect();
    [GroupAsk::Rewant { wants }, GroupAsk::Forget { slots }]
}

impl Led<'_> {
    /// Shares out partitions that were added, takes back those of deleted topics, and forgets
    /// positions in them; if topics have changed since this was last done.
    pub(super) fn follow_topics(&mut self, registry: &Registry) {
        let version = registry.version();
        if self.state.topics_seen == version {
            return;
        }
        let asked: Vec<(String, [GroupAsk; 2])> = registry.look(|image| {
            let live = image.topics().map(|topic| topic.id).collect();
            let of = |(name, group): (&String, &Group)| (name.clone(), asks(image, &live, group));
            self.state.groups().map(of).collect()
        });
        for (name, asks) in asked {
            for ask in asks {
                let decided = self.state.decide(&name, &ask);
                let change = match decided {
                    Ok(change) if change.is_empty() => continue,
                    Ok(change) => change,
                    Err(error) => {
                        tracing::warn!(group = name, %error, "its topics have changed");
                        continue;
                    }
                };
                // Nobody waits for it; whoever asks next waits for the log's end.
                if let Err(error) = self.change(&name, &change) {
                    tracing::debug!(group = name, %error, "its topics are looked at again");
                    return;
                }
            }
        }
        self.state.topics_seen = version;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weir_core::metadata::Ask;
    use weir_core::topic::TopicConfig;
    use weir_core::{Offset, TimestampMs};

    fn image(topics: &[(&str, u32)]) -> Image {
        let mut image = Image::default();
        for &(name, partitions) in topics {
            let config = TopicConfig { partitions, ..TopicConfig::default() };
            let ask = Ask::Create { name: name.to_owned(), config };
            let change = image.decide(TimestampMs(0), &ask).unwrap();
            image.apply(&change);
        }
        image
    }

    /// Goal: of a deleted topic positions go, of one that this node has not heard of yet they stay;
    /// members get the partitions of the topics that they named, and of no others.
    #[test]
    fn topics_come_and_go() {
        let mut image = image(&[("a", 2), ("b", 1)]);
        let (a, b) = (image.topic("a").unwrap().id, image.topic("b").unwrap().id);
        let newer = TopicId(image.counters().0 + 5);
        let mut group = Group::default();
        let positions = [a, b, newer].map(|id| ((id, PartitionIndex(0)), Offset(1))).into();
        let change = group.decide(&GroupAsk::Reset { positions }).unwrap();
        group.apply(&change);
        let wanted = ["a", "nothing", "__groups"].map(str::to_owned).into();
        let of_a: BTreeSet<Slot> = [0, 1].map(|at| (a, PartitionIndex(at))).into();
        assert_eq!(partitions_of(&image, &wanted), of_a);
        assert_eq!(names(&image, &[a, newer].into()), [(a, "a".to_owned())]);

        let change = image.decide(TimestampMs(0), &Ask::Delete { name: "b".into() }).unwrap();
        image.apply(&change);
        let live = image.topics().map(|topic| topic.id).collect();
        let [_, forget] = asks(&image, &live, &group);
        assert_eq!(forget, GroupAsk::Forget { slots: [(b, PartitionIndex(0))].into() });
    }
}
