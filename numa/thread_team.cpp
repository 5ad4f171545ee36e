#include "numa/thread_team.h"
