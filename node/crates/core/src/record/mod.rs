//! Record batches: Kafka's record batch v2.
