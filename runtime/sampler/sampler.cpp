#include <r1/sampler.h>
