//! Controllers of a site, several in one process: real redb files on simulated disks, a simulated
//! network, and tokio's clock, which stands still while anybody works.

mod disks;
mod faults;
mod hostile;
mod leads;
mod members;
mod support;
