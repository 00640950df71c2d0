// Huge pages for large results.
#pragma once

#include <cstddef>

namespace ecgan::cpu {

// Asks the system to back freshly allocated memory with 2 MiB pages, before its first write. An
// elementwise kernel spends most of its time on the page faults of its result: a 64 MiB tensor
// takes 16384 of them with 4 KiB pages. A hint: nothing happens where the system has none.
void advise_huge_pages(void* memory, size_t bytes);

}  // namespace ecgan::cpu
