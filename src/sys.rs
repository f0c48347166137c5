//! System calls that `nix` lacks, one safe wrapper each. One of the two places with `unsafe`.
//! No policy: an unsupported call is an errno, what to do about it is the caller's business.
#![allow(unsafe_code)] // wrappers of raw system calls; each block says why it is sound
