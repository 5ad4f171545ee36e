// Internal to simd/: AMX's tile registers, or what tests put in their place.
#pragma once

#ifdef R1_EMULATED_TILES
#include R1_EMULATED_TILES
#else
#include "simd/amx/tiles.h"
#endif
