"""The decoupled family, which distils a teacher: SRe2L, CDA, FADRM, RDED, DELT."""
