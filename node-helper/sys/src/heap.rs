//! How many heaps the allocator keeps.

/// Lets the threads share this many heaps ("arenas" of glibc). By itself it makes one for each thread that allocates, up to
/// eight per processor, and what a burst of work took in one of them is not there for the next. To be called before threads
/// start. False when the allocator has no such setting.
#[must_use]
pub fn share(heaps: i32) -> bool {
    set(heaps)
}

#[cfg(target_env = "gnu")]
fn set(heaps: i32) -> bool {
    // SAFETY: mallopt(3) takes two numbers and changes how later allocations are served; it touches no memory of ours.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) == 1 }
}

#[cfg(not(target_env = "gnu"))]
fn set(_heaps: i32) -> bool {
    false
}
