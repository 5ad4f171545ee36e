#include "simd/kernels.h"
