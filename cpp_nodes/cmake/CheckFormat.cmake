# SPDX-License-Identifier: Apache-2.0
# cmake -DCLANG_FORMAT=<program> -DFOLDER=<package> -P CheckFormat.cmake: fails where clang-format would change a file.
file(GLOB_RECURSE sources ${FOLDER}/include/*.hpp ${FOLDER}/src/*.[ch]pp ${FOLDER}/tools/*.[ch]pp ${FOLDER}/test/*.[ch]pp)
execute_process(COMMAND ${CLANG_FORMAT} --dry-run -Werror ${sources} RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "expected sources as clang-format leaves them; run: clang-format -i on the files above")
endif()
