// Warp collectives: every lane of a mask meets in one call.
#pragma once

#include <algorithm>

#include "block.h"

namespace cudaemu {

enum Collective { op_shuffle = 1, op_ballot, op_syncwarp, op_wmma_access, op_wmma_multiply };

// The last lane of the mask to arrive runs complete(lanes) and frees the others; lanes[l].data is
// what lane l passed.
template <typename F>
void warp_collective(unsigned mask, Collective op, void* data, unsigned source, Place place,
                     F complete) {
  Quiet quiet;
  Thread& me = self();
  Block& block = *me.block;
  if (!(mask >> me.lane & 1)) fail("calling lane is not in the mask", me, place);
  Thread* lanes = &me - me.lane;  // threads of a warp are adjacent
  const std::size_t in_warp =
      std::min<std::size_t>(kWarp, block.count - (lanes - block.threads.data()));
  me.mask = mask;
  me.operation = op;
  me.data = data;
  me.source = source;
  CUDAEMU_TSAN(if (op == op_syncwarp) __tsan_release(lanes));  // only __syncwarp orders memory
  bool all = true;
  for (unsigned l = 0; l < kWarp; ++l) {
    if (!(mask >> l & 1) || l == me.lane) continue;
    const Thread& other = lanes[l];
    if (l >= in_warp || other.state == Thread::done)
      fail("lane " + std::to_string(l) + " of the mask has exited or does not exist", me, place);
    if (other.state != Thread::at_warp) {
      all = false;
    } else if (other.mask != mask || other.operation != op || other.place.line != place.line) {
      fail("lanes meet in different collectives (other: line " + std::to_string(other.place.line) +
               ")",
           me, place);
    }
  }
  if (all) {
    complete(lanes);
    for (unsigned l = 0; l < kWarp; ++l)
      if (mask >> l & 1) lanes[l].state = Thread::ready;
  } else {
    me.state = Thread::at_warp;
    me.place = place;
    switch_fiber(me, block.scheduler);
  }
  CUDAEMU_TSAN(if (op == op_syncwarp) __tsan_acquire(lanes));
}

inline void sync_warp(unsigned mask, Place place) {
  warp_collective(mask, op_syncwarp, nullptr, 0, place, [](Thread*) {});
}

template <typename T>
T shuffle(unsigned mask, T value, unsigned source, Place place) {
  struct Slot {
    T in, out;
  } slot{value, value};
  if (!(mask >> source & 1))
    fail("shuffle reads lane " + std::to_string(source) + ", not in the mask", self(), place);
  warp_collective(mask, op_shuffle, &slot, source, place, [mask](Thread* lanes) {
    for (unsigned l = 0; l < kWarp; ++l) {
      if (!(mask >> l & 1)) continue;
      static_cast<Slot*>(lanes[l].data)->out = static_cast<Slot*>(lanes[lanes[l].source].data)->in;
    }
  });
  return slot.out;
}

inline unsigned ballot(unsigned mask, bool predicate, Place place) {
  unsigned value = predicate;
  warp_collective(mask, op_ballot, &value, 0, place, [mask](Thread* lanes) {
    unsigned votes = 0;
    for (unsigned l = 0; l < kWarp; ++l)
      if ((mask >> l & 1) && *static_cast<unsigned*>(lanes[l].data)) votes |= 1u << l;
    for (unsigned l = 0; l < kWarp; ++l)
      if (mask >> l & 1) *static_cast<unsigned*>(lanes[l].data) = votes;
  });
  return value;
}

}  // namespace cudaemu
