//! The record batch codec against its specification, against another implementation, and against
//! bytes that mean harm.

mod corrupt;
mod golden;
mod hostile;
mod kafka;
mod limits;
mod memory;
mod retain;
mod round_trip;
mod support;
