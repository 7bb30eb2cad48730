//! How many heaps the allocator keeps.

/// Lets the threads share this many heaps ("arenas" of glibc, mallopt(3)), at least one. By itself it makes one for each
/// thread that allocates, up to eight per processor, and what a burst of work took in one of them is not there for the
/// next. To be called before threads start. False when the allocator has no such setting.
pub fn share(heaps: u16) -> bool {
    set(libc::c_int::from(heaps.max(1)))
}

#[cfg(target_env = "gnu")]
fn set(heaps: libc::c_int) -> bool {
    // SAFETY: mallopt takes two numbers and changes how later allocations are served; it touches no memory of ours.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps) == 1 }
}

#[cfg(not(target_env = "gnu"))]
fn set(_heaps: libc::c_int) -> bool {
    false
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    #[test]
    fn the_allocator_takes_the_setting() {
        assert!(super::share(1));
    }
}
