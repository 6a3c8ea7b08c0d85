"""How was the embedded hand made? Its generator, from bone lengths to the stored arrays.

The hand that ships with the package is nobody's scan: a table of bone lengths and radii
(`skeleton`) becomes a signed distance field (`surface`), the field a triangle mesh with MANO's
vertex and face counts (`remesh`, `numbering`), and the mesh a rig with weights, joint regressor,
pose correctives (`rig`), shape components (`shapes`) and pose samples (`poses`, on anatomical
`angles`, kept whole by `contact` and `intersections`). `make` writes the result; `contact_sheet`
draws it.

Any change of a radius changes the mesh and what every vertex id means, so the product reads the
stored arrays and never runs this package.
"""
