//! Modules in the real engine.

mod cache;
mod columns;
mod examples;
mod hostile;
mod support;
mod uploads;
mod wat;
