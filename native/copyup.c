/* Copy-up: the functions that the module adds for it. */
#include "native.h"

PyMethodDef native_copyup_methods[] = {
    {NULL, NULL, 0, NULL},
};
