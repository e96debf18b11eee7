//! What every entry point needs: errors and panics on the way out, sized structs, strings and handles on the way in.

use std::ffi::{CStr, CString, c_char};
use std::mem::{MaybeUninit, size_of};
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::error::{OK, status_of, tj_error, tj_status};
use crate::error::{Error, ErrorKind, Result};

/// Runs the body of a fallible entry point. Whatever goes wrong in it, a panic included, becomes a status, and the
/// caller's `tj_error` where there is one.
///
/// # Safety
/// `error` is NULL or points to memory for one `tj_error`.
pub(super) unsafe fn entry(error: *mut tj_error, body: impl FnOnce() -> Result<()>) -> tj_status {
    // AssertUnwindSafe: a panic leaves no handle half changed; the core's locks ignore poison for that reason.
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(failure)) => failure,
        Err(panic) => Error::new(ErrorKind::Panic, format!("caught a panic: {}", panic_text(&*panic))),
    };
    if !error.is_null() {
        // SAFETY: not NULL, so it is the caller's memory for one tj_error; it may be uninitialised, hence `write`.
        unsafe { error.write(tj_error::of(&failure)) };
    }
    status_of(failure.kind)
}

/// Runs the body of an entry point that cannot fail. A panic gives `otherwise`.
pub(super) fn infallible<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

/// A struct whose first field is `size_t struct_size`.
///
/// # Safety
/// The type is `repr(C)`, begins with a `usize` that is its size, and is valid when all its bytes are zero: numbers,
/// pointers and nullable function pointers only.
pub(super) unsafe trait Sized_: Copy {
    /// The C name, as its INIT macro has it: `QUERY` for TJ_QUERY_INIT.
    const INIT: &'static str;

    /// All defaults: zeros, and the size in front.
    fn initial() -> Self {
        let mut value = MaybeUninit::<Self>::zeroed();
        // SAFETY: by the trait's contract the type begins with a usize and is valid as zeros.
        unsafe {
            value.as_mut_ptr().cast::<usize>().write(size_of::<Self>());
            value.assume_init()
        }
    }
}

/// Sizes beyond this are taken for uninitialised memory.
const MAX_STRUCT_SIZE: usize = 64 * 1024;

fn checked_size<T: Sized_>(at: *const T, argument: &str) -> Result<usize> {
    not_null(at, argument)?;
    // SAFETY: not NULL and aligned, so it points to a T as the header asks, which begins with a size.
    let size = unsafe { at.cast::<usize>().read() };
    let advice = || format!("is {size}; initialise the struct with TJ_{}_INIT", T::INIT);
    if !(2 * size_of::<usize>()..=MAX_STRUCT_SIZE).contains(&size) || !size.is_multiple_of(size_of::<usize>())
    {
        return Err(Error::invalid(&format!("{argument}.struct_size"), advice()));
    }
    Ok(size)
}

/// Copies a struct in. A shorter one, from an older header, is completed with zeros, which mean the defaults; a
/// longer one, from a newer header, is accepted if what this library does not know in it is zero.
///
/// # Safety
/// `at` is NULL or points to as many readable bytes as its first field says.
pub(super) unsafe fn struct_in<T: Sized_>(at: *const T, argument: &str) -> Result<T> {
    let size = checked_size(at, argument)?;
    let known = size.min(size_of::<T>());
    // SAFETY: the caller vouches for `size` bytes.
    let tail = unsafe { std::slice::from_raw_parts(at.cast::<u8>().add(known), size - known) };
    if tail.iter().any(|byte| *byte != 0) {
        let what = "comes from a newer header and sets a field that this library does not know";
        return Err(Error::invalid(argument, what));
    }
    let mut value = T::initial();
    // SAFETY: `known` bytes are readable there and fit here; every bit pattern of a prefix is valid, because the
    // fields are numbers and pointers, and a function pointer that the caller set is one.
    unsafe { std::ptr::copy_nonoverlapping(at.cast::<u8>(), (&raw mut value).cast::<u8>(), known) };
    // SAFETY: every sized struct begins with its size.
    unsafe { (&raw mut value).cast::<usize>().write(size_of::<T>()) };
    Ok(value)
}

/// As [`struct_in`], without a copy if the struct is as long as this library's.
///
/// # Safety
/// As for [`struct_in`], and the struct stays as it is for `'a`.
#[inline]
pub(super) unsafe fn struct_view<'a, T: Sized_>(
    at: *const T,
    argument: &str,
    completed: &'a mut Option<T>,
) -> Result<&'a T> {
    if checked_size(at, argument)? == size_of::<T>() {
        // SAFETY: not NULL, aligned, and as long as a T, whose fields are valid whatever their bytes.
        return Ok(unsafe { &*at });
    }
    // SAFETY: the caller's promise is the same.
    Ok(completed.insert(unsafe { struct_in(at, argument) }?))
}

/// How many bytes of a `T` the caller's struct has room for.
pub(super) fn room_out<T: Sized_>(at: *const T, argument: &str) -> Result<usize> {
    Ok(checked_size(at, argument)?.min(size_of::<T>()))
}

/// Copies a struct out, as much of it as fits, leaving the caller's size as it was.
///
/// # Safety
/// `room` came from [`room_out`] for the same `at`, which points to that many writable bytes.
pub(super) unsafe fn struct_out<T: Sized_>(value: &T, at: *mut T, room: usize) {
    let skip = size_of::<usize>();
    // SAFETY: `room` bytes are writable at `at` and readable in `value`, and room ≥ 2 × skip.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<u8>();
        std::ptr::copy_nonoverlapping(from.add(skip), at.cast::<u8>().add(skip), room - skip);
    }
}

/// A struct out with things that hang off it. They live in its field `owner`.
///
/// # Safety
/// `OWNER` is the offset of a pointer in it, which is NULL or came from `Box::into_raw`.
pub(super) unsafe trait Owning: Sized_ {
    /// What the other pointers lead to.
    type Owner;
    /// Where the pointer to it is.
    const OWNER: usize;

    /// Sets every pointer to what is owned to NULL, and every count of it to 0.
    ///
    /// # Safety
    /// `at` points to a struct of the caller's that goes as far as the owner, and perhaps no further.
    unsafe fn let_go(at: *mut Self);
}

/// Whether that much room has room for the owner. Without one there would be nobody to release what hangs off it.
pub(super) fn covers_owner<T: Owning>(room: usize) -> bool {
    room >= T::OWNER + size_of::<*mut T::Owner>()
}

/// [`room_out`] for a struct that is nothing without what hangs off it.
pub(super) fn room_with_owner<T: Owning>(at: *const T, argument: &str) -> Result<usize> {
    let room = room_out(at, argument)?;
    if !covers_owner::<T>(room) {
        return Err(Error::invalid(&format!("{argument}.struct_size"), "has no room for the owner"));
    }
    Ok(room)
}

/// For the `tj_<type>_free` functions.
///
/// # Safety
/// `at` is NULL or points to as many bytes as its first field says; if they go as far as the owner, it is NULL or
/// what this library has put there.
pub(super) unsafe fn release<T: Owning>(at: *mut T) {
    if !room_out(at, "").is_ok_and(covers_owner::<T>) {
        return;
    }
    // SAFETY: the struct is there as far as its owner. That is taken out before it is dropped, so that a second call
    // finds NULL.
    unsafe {
        let owner = at.byte_add(T::OWNER).cast::<*mut T::Owner>().replace(std::ptr::null_mut());
        T::let_go(at);
        if !owner.is_null() {
            infallible((), || drop(Box::from_raw(owner)));
        }
    }
}

/// For the `tj_<type>_init` functions.
///
/// # Safety
/// `at` is NULL or points to memory for one `T`.
pub(super) unsafe fn initialise<T: Sized_>(at: *mut T) {
    if !at.is_null() {
        // SAFETY: not NULL, so it is the caller's memory for one T.
        unsafe { at.write(T::initial()) };
    }
}

/// Refuses NULL, and pointers that no compiler would have aligned so.
pub(super) fn not_null<T>(at: *const T, argument: &str) -> Result<()> {
    if at.is_null() {
        return Err(Error::invalid(argument, "is NULL"));
    }
    if !at.is_aligned() {
        return Err(Error::invalid(argument, "is not aligned"));
    }
    Ok(())
}

/// Borrows a handle.
///
/// # Safety
/// `handle` is NULL or one that this library gave out and that was not freed, and stays so for `'a`.
pub(super) unsafe fn handle<'a, T>(handle: *const T, argument: &str) -> Result<&'a T> {
    not_null(handle, argument)?;
    // SAFETY: not NULL, so it is a live handle by this function's contract.
    Ok(unsafe { &*handle })
}

/// Borrows a string. NULL is "".
///
/// # Safety
/// `text` is NULL or NUL-terminated, and stays as it is for `'a`.
#[inline]
pub(super) unsafe fn string<'a>(text: *const c_char, field: &str) -> Result<&'a str> {
    if text.is_null() {
        return Ok("");
    }
    // SAFETY: this function's contract is the same.
    unsafe { checked_string(text, field) }
}

/// # Safety
/// `text` is NUL-terminated, and stays as it is for `'a`.
unsafe fn checked_string<'a>(text: *const c_char, field: &str) -> Result<&'a str> {
    // SAFETY: by this function's contract.
    let text = unsafe { CStr::from_ptr(text) };
    // Most strings are short and ASCII.
    let bytes = text.to_bytes();
    if bytes.is_ascii() {
        // SAFETY: ASCII is UTF-8.
        return Ok(unsafe { std::str::from_utf8_unchecked(bytes) });
    }
    text.to_str()
        .map_err(|error| Error::invalid(field, format!("is not valid UTF-8 (byte {})", error.valid_up_to())))
}

/// Borrows a string of which NULL means "not given".
///
/// # Safety
/// As for [`string`].
pub(super) unsafe fn optional_string<'a>(text: *const c_char, field: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise is this function's.
    unsafe { string(text, field) }.map(Some)
}

/// A string out. One with a NUL in it can only come from a foreign writer; C sees it up to there.
pub(super) fn c_string(text: &str) -> CString {
    CString::new(text.split('\0').next().unwrap_or_default()).unwrap_or_default()
}

/// An out-parameter.
///
/// # Safety
/// `at` passed [`not_null`] and points to writable memory for one `T`.
pub(super) unsafe fn write_out<T>(at: *mut T, value: T) {
    // SAFETY: by this function's contract.
    unsafe { at.write(value) }
}

/// A number that a function finds out.
///
/// # Safety
/// `out` is NULL or writable.
pub(super) unsafe fn number_out(
    out: *mut u64,
    argument: &str,
    number: impl FnOnce() -> Result<u64>,
) -> Result<()> {
    not_null(out, argument)?;
    let number = number()?;
    // SAFETY: not NULL, so writable by this function's contract.
    unsafe { write_out(out, number) };
    Ok(())
}
