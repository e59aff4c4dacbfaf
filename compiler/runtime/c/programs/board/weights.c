/* weights.c - the weights as part of the program's read-only image. */
__asm__(".section .rodata.isthmus_weights, \"a\"\n"
        ".balign 64\n"
        ".global isthmus_weights\n"
        "isthmus_weights:\n"
        ".incbin \"weights.bin\"\n"
        ".global isthmus_weights_end\n"
        "isthmus_weights_end:\n"
        ".previous\n");
