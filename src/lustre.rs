//! Lustre, as far as a copy has to know it: layouts, stripes, and how to tell that it is there. Everything
//! goes through plain system calls and extended attributes; nothing links liblustreapi.

pub mod stripes;
