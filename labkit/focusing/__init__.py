"""The study behind notebooks 03 and 04: what decides how much a student of one modality learns.

`gaussian` asks it of linear classifiers whose data are known to the last number; `claims` says what the
answers mean for the paper's claims (Xue et al., ICLR 2023).
"""
