# `make help` says what there is to make. Nothing is written outside $(TARGET_DIR), but by `make install`.

CARGO ?= cargo
STRIP ?= strip
INSTALL ?= install
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DESTDIR ?=

# bundled: SQLite is compiled in. system: the system's libsqlite3 is linked.
SQLITE ?= bundled
# A folder with libtokenjoule.so and libtokenjoule.a to install instead of building a release.
BUILT ?=

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
VERSION := $(shell sed -n 's/^version = "\(.*\)"$$/\1/p' Cargo.toml)
ABI := $(shell sed -n 's/^.define TJ_ABI_VERSION //p' include/tokenjoule.h)
HEADERS := $(wildcard include/*.h include/*.hpp)

# What `rustc --print native-static-libs` says that a static library needs; tests/install.rs compares.
STATIC_LIBS := -lgcc_s -lutil -lrt -lpthread -lm -ldl -lc

$(if $(filter bundled system,$(SQLITE)),,$(error SQLITE is "$(SQLITE)"; it is "bundled" or "system"))
FEATURES_bundled :=
FEATURES_system := --no-default-features
STATIC_REQUIRES_system := sqlite3

.PHONY: help library demo test lint header bench install uninstall clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables of library, install and uninstall: PREFIX (/usr/local), LIBDIR, INCLUDEDIR, DESTDIR,"
	@echo "SQLITE (bundled, system), STRIP, BUILT (a folder of built libraries to install)"
	@echo "Variables of bench: QUICK=1 (small numbers), BENCH_5M=0 (without the largest database)"

# Only these two crate types: with the rlib among them, cargo would build without link-time optimisation.
library: ## the shared and the static library, in target/release
	@packaging/toolchain.sh build
	$(CARGO) rustc --release --lib --crate-type cdylib,staticlib $(FEATURES_$(SQLITE))

# ---- the demo and the tests ------------------------------------------------------------------------------------------

LLAMA := $(TARGET_DIR)/llama
MODEL := SmolLM2-135M-Instruct

demo: ## a real model on llama.cpp, every call recorded; sets up all that it needs under target/
	@packaging/toolchain.sh test
	@$(MAKE) --no-print-directory library
	bindings/llama.cpp/setup.sh $(LLAMA) --model
	@log=$(LLAMA)/demo.log; { cmake -S bindings/llama.cpp -B $(LLAMA)/demo \
	  -DCMAKE_PREFIX_PATH="$(abspath $(LLAMA)/prefix)" \
	  -DTOKENJOULE_LIBRARY="$(abspath $(TARGET_DIR)/release/libtokenjoule.so)" && \
	  cmake --build $(LLAMA)/demo --target demo; } >$$log 2>&1 || { cat $$log; exit 1; }
	$(LLAMA)/demo/demo --model $(LLAMA)/models/$(MODEL).Q4_1.gguf --name $(MODEL) --database $(LLAMA)/demo.db

SKIPPED := $(TARGET_DIR)/tmp/skipped.txt

# A build of its own for loom, which nobody ships: fast code, but quick to make.
LOOM := RUSTFLAGS="--cfg loom" CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
  CARGO_PROFILE_RELEASE_DEBUG=false $(CARGO) test --release --target-dir $(TARGET_DIR)/loom

test: ## everything: Rust, C, C++, the llama.cpp example, the interleavings of bus and journal
	@packaging/toolchain.sh test
	@mkdir -p $(dir $(SKIPPED)) && : >$(SKIPPED)
	@failed=0; set -x; \
	$(CARGO) test --no-fail-fast || failed=1; \
	$(LOOM) --lib --test bus_loom || failed=1; \
	{ set +x; } 2>/dev/null; \
	echo; \
	if [ -s $(SKIPPED) ]; then echo "$$(grep -c . $(SKIPPED)) skipped:"; sed 's/^SKIPPED /  /' $(SKIPPED); \
	else echo "no test was skipped"; fi; \
	exit $$failed

lint: ## formatting, clippy, documentation, header drift, shell scripts
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) fmt --check $(PEERS)
	$(CARGO) clippy --locked $(PEERS) --target-dir $(BENCH)/peers -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps
	$(CARGO) test --test header the_committed_header_is_what_cbindgen_makes
	@if pkg-config --exists sqlite3; then \
	  echo "$(CARGO) clippy --no-default-features"; $(CARGO) clippy --no-default-features -- -D warnings; \
	else echo "SKIPPED clippy --no-default-features: there is no libsqlite3 to build against"; fi
	@if command -v shellcheck >/dev/null; then \
	  echo shellcheck; shellcheck --severity=warning .ci/run packaging/*.sh bindings/llama.cpp/*.sh; \
	else echo "SKIPPED shellcheck: it is not installed"; fi

header: ## include/tokenjoule.h, made again from src/ffi
	BLESS=1 $(CARGO) test --test header the_committed_header_is_what_cbindgen_makes

BENCH := $(TARGET_DIR)/bench
PEERS := --manifest-path benches/peers/Cargo.toml

bench: library ## what recording and asking cost here, and what the peers cost (QUICK=1: does it work at all?)
	benches/run.py --library $(TARGET_DIR)/release --work $(BENCH) $(if $(QUICK),--quick)

# ---- installing ------------------------------------------------------------------------------------------------------

built := $(or $(BUILT),$(TARGET_DIR)/release)
lib := $(DESTDIR)$(LIBDIR)
include := $(DESTDIR)$(INCLUDEDIR)
real := libtokenjoule.so.$(VERSION)
soname := libtokenjoule.so.$(ABI)
pkgconfig := tokenjoule.pc tokenjoule-static.pc
cmake := tokenjoule-config.cmake tokenjoule-config-version.cmake

# In the pkg-config files a folder below the prefix is written so that the prefix can be changed.
below_prefix = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))
fill_in := sed -e 's|@PREFIX@|$(PREFIX)|g' -e 's|@VERSION@|$(VERSION)|g' -e 's|@ABI@|$(ABI)|g' \
  -e 's|@STATIC_LIBS@|$(STATIC_LIBS)|g' -e 's|@STATIC_REQUIRES@|$(STATIC_REQUIRES_$(SQLITE))|g'

install: $(if $(BUILT),,library) ## into PREFIX: libraries, header, pkg-config files, CMake package
	@case "$(PREFIX)" in /*) ;; *) echo "PREFIX must be an absolute path" >&2; exit 1;; esac
	$(INSTALL) -d "$(lib)/pkgconfig" "$(lib)/cmake/tokenjoule" "$(include)"
	$(INSTALL) -m 644 $(HEADERS) "$(include)"
	@# By way of another name: a program that runs on the old file keeps it.
	$(STRIP) --strip-unneeded -o "$(lib)/.$(real)" "$(built)/libtokenjoule.so"
	chmod 755 "$(lib)/.$(real)" && mv -f "$(lib)/.$(real)" "$(lib)/$(real)"
	ln -sf $(real) "$(lib)/$(soname)"
	ln -sf $(soname) "$(lib)/libtokenjoule.so"
	$(STRIP) --strip-debug -o "$(lib)/libtokenjoule.a" "$(built)/libtokenjoule.a"
	chmod 644 "$(lib)/libtokenjoule.a"
	@for file in $(pkgconfig); do \
	  $(fill_in) -e 's|@LIBDIR@|$(call below_prefix,$(LIBDIR))|g' \
	    -e 's|@INCLUDEDIR@|$(call below_prefix,$(INCLUDEDIR))|g' packaging/$$file.in >"$(lib)/pkgconfig/$$file" || exit 1; \
	done
	@for file in $(cmake); do \
	  $(fill_in) -e 's|@LIBDIR@|$(LIBDIR)|g' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|g' \
	    packaging/$$file.in >"$(lib)/cmake/tokenjoule/$$file" || exit 1; \
	done
	@echo "installed into $(DESTDIR)$(PREFIX)"

uninstall: ## what `make install` put there
	rm -f $(foreach header,$(notdir $(HEADERS)),"$(include)/$(header)")
	rm -f "$(lib)/$(real)" "$(lib)/$(soname)" "$(lib)/libtokenjoule.so" "$(lib)/libtokenjoule.a"
	rm -f $(foreach file,$(pkgconfig),"$(lib)/pkgconfig/$(file)")
	rm -f $(foreach file,$(cmake),"$(lib)/cmake/tokenjoule/$(file)")
	@rmdir "$(lib)/cmake/tokenjoule" 2>/dev/null || true

clean: ## removes target/: what was built, and what was downloaded for it
	$(CARGO) clean
